"""torch.compile, torch.export, AOTInductor, torch.fx and torch.jit.trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

import convext

conv2d_op = torch.ops.convext.conv2d.default


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Every padding mode, groups, strides, a layout change, and a functional call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convext.ConvExt2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.body = convext.ConvExt2d(4, 8, 3, stride=2, padding="valid", groups=2)
        self.wrap = convext.ConvExt2d(8, 8, (2, 3), padding=(1, 0, 2, 1), padding_mode="circular")
        self.head = convext.ConvExt2d(8, 4, 2, padding="same")

    def forward(self, input: Tensor) -> Tensor:
        hidden = torch.relu(self.body(torch.tanh(self.stem(input))))
        hidden = self.wrap(hidden.to(memory_format=torch.channels_last)).permute(0, 1, 3, 2)
        hidden = self.head(hidden)
        return convext.conv2d(hidden, self.head.weight[:, :4] * 2, None, dilation=2)


def check_step(model: Callable[[Tensor], Tensor], net: Net, input: Tensor) -> None:
    """A compiled model's output, strides and gradients against the model itself."""
    leaves = [input.requires_grad_(), *net.parameters()]
    output, reference = model(input), net(input)
    torch.testing.assert_close(output, reference)
    assert output.stride() == reference.stride()
    grads = torch.autograd.grad(output.pow(2).sum(), leaves)
    references = torch.autograd.grad(reference.pow(2).sum(), leaves)
    torch.testing.assert_close(grads, references, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(backend: str) -> None:
    net = Net()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    input = torch.randn(2, 3, 12, 12)
    check_step(compiled, net, input)
    check_step(compiled, net, torch.randn_like(input))
    if backend != "inductor":  # whose compiler takes its time
        check_step(compiled, net, input.detach().to(memory_format=torch.channels_last))
        with torch.no_grad():
            torch.testing.assert_close(compiled(input), net(input))


def test_compile_with_dynamic_shapes_once() -> None:
    net = Net()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True, dynamic=True)
    for size in ((2, 3, 12, 13), (3, 3, 15, 11), (7, 3, 10, 22)):
        check_step(compiled, net, torch.randn(size))
    assert counter.frame_count == 1


def test_compile_of_the_function_with_every_kind_of_argument() -> None:
    def function(input: Tensor, weight: Tensor, stride: int) -> Tensor:
        output = convext.conv2d(input, weight, stride=stride, padding="same" if stride == 1 else 1)
        output = convext.conv2d(output, weight, padding=(1, 2, 0, 1), padding_mode="replicate")
        return convext.conv2d(output[0], weight, padding=[1], dilation=(1, 2))

    weight = torch.randn(3, 3, 3, 3)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for stride in (1, 2, 3):
        input = torch.randn(2, 3, 14, 14)
        torch.testing.assert_close(compiled(input, weight, stride), function(input, weight, stride))


def test_compiled_errors() -> None:
    compiled = torch.compile(convext.conv2d, backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        compiled(torch.randn(1, 1, 2, 2), torch.randn(1, 1, 3, 3))
    with pytest.raises(RuntimeError, match="should be the same"):
        compiled(torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compile_under_autocast(dtype: torch.dtype) -> None:
    net, input = Net(), torch.randn(2, 3, 12, 12)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=dtype):
        output, reference = compiled(input), net(input)
    assert output.dtype is dtype
    assert torch.equal(output, reference)
    grads = torch.autograd.grad(output.float().sum(), list(net.parameters()))
    references = torch.autograd.grad(reference.float().sum(), list(net.parameters()))
    torch.testing.assert_close(grads, references)


def test_compile_of_complex_numbers() -> None:
    module = convext.ConvExt2d(2, 3, 3, padding=1, dtype=torch.complex64)
    input = torch.randn(2, 2, 5, 5, dtype=torch.complex64)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(input), module(input))


def test_compile_of_transforms() -> None:
    input, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)

    def loss(weight: Tensor) -> Tensor:
        return convext.conv2d(input, weight, padding=1).sin().sum()

    def reference(weight: Tensor) -> Tensor:
        return F.conv2d(input, weight, padding=1).sin().sum()

    transforms = {
        "grad": lambda f: lambda w: torch.func.grad(f)(w),
        "jvp": lambda f: lambda w: torch.func.jvp(f, (w,), (w.cos(),))[1],
        "vmap": lambda f: lambda w: torch.vmap(f)(torch.stack([w, w.cos()])),
    }
    for name, transform in transforms.items():
        compiled = torch.compile(transform(loss), backend="aot_eager", fullgraph=True)
        result = compiled(weight)
        torch.testing.assert_close(result, transform(reference)(weight), msg=name)
        assert bool(result.abs().max() > 0)


def test_compiled_models_obey_batch_invariance_and_plans() -> None:
    module = convext.ConvExt2d(3, 4, 3)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    input = torch.randn(2, 3, 6, 6)
    compiled(input)
    convext._C.reset_kernel_runs()
    with convext.force_plan("reference"):
        compiled(input)
    (kernel,) = [name for name, runs in convext._C.kernel_runs().items() if runs]
    assert "reference" in kernel


def test_compiled_autograd() -> None:
    net, input = Net(), torch.randn(2, 3, 12, 12)
    references = torch.autograd.grad(net(input).sum(), list(net.parameters()))
    with torch._dynamo.compiled_autograd._enable(
        torch.compile(backend="eager", fullgraph=True, dynamic=False)
    ):
        net(input).sum().backward()
    for parameter, reference in zip(net.parameters(), references, strict=True):
        torch.testing.assert_close(parameter.grad, reference)


# --------------------------------------------------------------------------------------------------
# Export


def operators(graph: torch.fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool, tmp_path: Path) -> None:
    net, input = Net().eval(), torch.randn(2, 3, 12, 12)
    sizes = {"input": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8)}}
    program = torch.export.export(net, (input,), dynamic_shapes=sizes, strict=strict)
    assert "convext.conv2d.default" in operators(program.graph)
    other = torch.randn(5, 3, 17, 12)
    torch.testing.assert_close(program.module()(other), net(other))

    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2")
    torch.testing.assert_close(loaded.module()(other), net(other))


def test_export_for_machines_without_convext() -> None:
    net, input = Net().eval(), torch.randn(2, 3, 12, 12)
    sizes = {"input": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8)}}
    program = torch.export.export(net, (input,), dynamic_shapes=sizes)
    portable = program.run_decompositions(convext.decompositions())
    assert not any("convext" in name for name in operators(portable.graph))
    core = program.run_decompositions(
        {**torch.export.default_decompositions(), **convext.decompositions()}
    )
    assert "aten.convolution.default" in operators(core.graph)
    other = torch.randn(5, 3, 17, 12)
    for decomposed in (portable, core):
        convext._C.reset_kernel_runs()
        result = decomposed.module()(other)
        assert not any(convext._C.kernel_runs().values())
        torch.testing.assert_close(result, net(other))


def test_make_fx_with_decompositions() -> None:
    input, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)

    def gradients(input: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        input, weight = input.detach().requires_grad_(), weight.detach().requires_grad_()
        output = convext.conv2d(input, weight, padding=1, padding_mode="circular")
        return torch.autograd.grad(output.sin().sum(), (input, weight))

    for mode in ("real", "fake", "symbolic"):
        native = make_fx(gradients, tracing_mode=mode)(input, weight)
        assert {"convext.conv2d.default", "convext.conv2d_backward.default"} <= operators(
            native.graph
        )
        portable = make_fx(gradients, convext.decompositions(), mode)(input, weight)
        assert not any("convext" in name for name in operators(portable.graph))
        for traced in (native, portable):
            torch.testing.assert_close(traced(input, weight), gradients(input, weight))


def test_export_with_unbacked_batch() -> None:
    class Filtered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = convext.ConvExt2d(3, 4, 3, padding=1, padding_mode="circular")

        def forward(self, input: Tensor, keep: Tensor) -> Tensor:
            return self.conv(input[keep])

    net, input = Filtered(), torch.randn(6, 3, 5, 5)
    keep = torch.tensor([True, False, True, True, False, False])
    program = torch.export.export(net, (input, keep))
    for mask in (keep, ~keep, torch.ones_like(keep), torch.zeros_like(keep)):
        torch.testing.assert_close(program.module()(input, mask), net(input, mask))


def test_ahead_of_time_inductor(tmp_path: Path) -> None:
    net = nn.Sequential(convext.ConvExt2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    net.eval()
    input = torch.randn(2, 3, 8, 8)
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with torch.no_grad():
        program = torch.export.export(net, (input,), dynamic_shapes=sizes)
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "net.pt2")
        )
        runner = torch._inductor.aoti_load_package(package)
        for batch in (2, 5):
            input = torch.randn(batch, 3, 8, 8)
            convext._C.reset_kernel_runs()
            result = runner(input)
            assert sum(convext._C.kernel_runs().values()) == 1
            torch.testing.assert_close(result, net(input))


# --------------------------------------------------------------------------------------------------
# torch.fx and torch.jit


def test_symbolic_trace() -> None:
    net, input = Net(), torch.randn(2, 3, 12, 12)
    traced = torch.fx.symbolic_trace(net)
    calls = [node for node in traced.graph.nodes if node.op == "call_function"]
    assert sum(node.target is convext.conv2d for node in calls) == 5
    assert "convext_functional_conv2d" in traced.code
    check_step(traced, net, input)
    again = torch.fx.symbolic_trace(traced)
    torch.testing.assert_close(again(input), net(input))
    traced.graph.lint()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_jit_trace(tmp_path: Path) -> None:
    net, input = Net().eval(), torch.randn(2, 3, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, (input,))
    assert "convext::conv2d" in str(traced.inlined_graph)
    other = torch.randn(4, 3, 12, 12)
    torch.testing.assert_close(traced(other), net(other))
    torch.jit.save(traced, str(tmp_path / "net.pt"))
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "net.pt"))(other), net(other))
    leaves = list(net.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(traced(other).sum(), leaves),
        torch.autograd.grad(net(other).sum(), leaves),
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "same"},
        {"padding": (1, 2, 0, 1)},
        {"padding": (1, 2), "padding_mode": "reflect", "groups": 2, "bias": False},
    ],
)
def test_jit_script(arguments: dict[str, Any]) -> None:
    module = convext.ConvExt2d(4, 6, 3, **arguments)
    scripted = torch.jit.script(module)
    for size in ((2, 4, 8, 8), (4, 8, 8)):
        leaves = [torch.randn(size, requires_grad=True), *module.parameters()]
        output, reference = scripted(leaves[0]), module(leaves[0])
        assert torch.equal(output, reference)
        torch.testing.assert_close(
            torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(reference.sum(), leaves)
        )


def test_layout_constraint_of_inductor() -> None:
    """Inductor may not hand the kernel another layout than the fake kernel saw."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), convext.ConvExt2d(8, 8, 3), nn.Conv2d(8, 4, 3))
    input = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        compiled = torch.compile(module, backend="inductor", fullgraph=True)
        output, reference = compiled(input), module(input)
    torch.testing.assert_close(output, reference)
    assert output.stride() == reference.stride()
