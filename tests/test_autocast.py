"""Autocast: the context's dtype, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext
from convext import _ops

Function = Callable[..., Tensor]


def operands(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(size).to(dtype) for size in ((2, 3, 5, 5), (4, 3, 3, 3), (4,))]


def direct(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    geometry = ([1, 1], [0, 0], [1, 1], 1, "zeros")
    return torch.ops.convext.conv2d(input, weight, bias, *geometry)


ways = pytest.mark.parametrize("way", [convext.conv2d, direct], ids=["function", "operator"])


@ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_contexts_dtype(way: Function, dtype: torch.dtype, requires_grad: bool) -> None:
    tensors = [tensor.requires_grad_(requires_grad) for tensor in operands()]
    with torch.autocast("cpu", dtype=dtype):
        output = way(*tensors)
    assert output.dtype is dtype
    assert torch.equal(output, convext.conv2d(*(tensor.to(dtype) for tensor in tensors)))
    assert output.requires_grad == requires_grad
    if requires_grad:
        grads = torch.autograd.grad(output.float().pow(2).sum(), tensors)
        with torch.autocast("cpu", dtype=dtype):
            reference = F.conv2d(*tensors)
        references = torch.autograd.grad(reference.float().pow(2).sum(), tensors)
        for mine, other in zip(grads, references, strict=True):
            assert mine.dtype is torch.float32
            torch.testing.assert_close(mine, other, rtol=0.05, atol=0.05 * float(other.abs().max()))


@ways
def test_nested_contexts(way: Function) -> None:
    tensors = operands()
    with torch.autocast("cpu", dtype=torch.float16):
        assert way(*tensors).dtype is torch.float16
        with torch.autocast("cpu", enabled=False):
            assert way(*tensors).dtype is torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert way(*tensors).dtype is torch.bfloat16
        assert way(*tensors).dtype is torch.float16
    assert way(*tensors).dtype is torch.float32


@ways
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int32])
def test_what_atens_autocast_leaves_alone(way: Function, dtype: torch.dtype) -> None:
    tensors = operands(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = way(*tensors)
        assert output.dtype is dtype
        assert F.conv2d(*tensors).dtype is dtype
    assert torch.equal(output, convext.conv2d(*tensors))


@ways
def test_mixed_dtypes_as_in_aten(way: Function) -> None:
    input, weight, bias = operands()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert way(input.bfloat16(), weight, bias).dtype is torch.bfloat16
        assert way(input.half(), weight, bias.bfloat16()).dtype is torch.bfloat16
        for function in (way, F.conv2d):
            with pytest.raises(RuntimeError):
                function(input.double(), weight, bias)
    with torch.autocast("cuda", dtype=torch.float16, enabled=torch.cuda.is_available()):
        assert way(input, weight, bias).dtype is torch.float32, "a CPU tensor is not CUDA's"


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_cuda_kernel_follows_cudas_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: the AutocastCUDA kernel, called on tensors that say they are CUDA's."""
    before = torch.get_autocast_dtype("cuda")
    tensors = operands()
    try:
        for dtype in (torch.bfloat16, torch.float16):
            torch.set_autocast_dtype("cuda", dtype)
            fakes = _fake_cuda(tensors)
            assert _ops._autocast_kernel("cuda")(*fakes, *GEOMETRY).dtype is dtype
            assert _ops._autocast_kernel("cpu")(*fakes, *GEOMETRY).dtype is torch.float32
    finally:
        torch.set_autocast_dtype("cuda", before)


GEOMETRY = ([1, 1], [0, 0], [1, 1], 1, "zeros")


def _fake_cuda(tensors: list[Tensor]) -> list[Tensor]:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=False)
    return [FakeTensor(mode, tensor.to("meta"), torch.device("cuda:0")) for tensor in tensors]


def test_kernels_are_registered_for_both_devices() -> None:
    for key in ("AutocastCPU", "AutocastCUDA"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key("convext::conv2d", key)


def test_training_step() -> None:
    model = torch.nn.Sequential(
        convext.ConvExt2d(3, 8, 3, padding=1), torch.nn.ReLU(), convext.ConvExt2d(8, 4, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    input, target = torch.randn(4, 3, 8, 8), torch.randn(4, 4, 6, 6)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.mse_loss(model(input).float(), target)
        loss.backward()
        assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_double_backward_within_the_context() -> None:
    input, weight, _ = (tensor.requires_grad_() for tensor in operands())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = convext.conv2d(input, weight)
        (grad,) = torch.autograd.grad(output.float().pow(2).sum(), input, create_graph=True)
        grad.float().pow(2).sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype is torch.float32
    assert bool(weight.grad.abs().max() > 0)
