"""``torch.func``, forward-mode AD and vmap: all agree with ``F.conv2d``, none returns zeros."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import convext

Function = Callable[..., Tensor]

MODES: dict[str, tuple[Any, str]] = {
    "zeros": (1, "zeros"),
    "four_sided": ((1, 0, 2, 1), "zeros"),
    "reflect": ((1, 0), "reflect"),
    "replicate": ((0, 1, 1, 2), "replicate"),
    "circular": (1, "circular"),
}
modes = pytest.mark.parametrize(("padding", "mode"), MODES.values(), ids=MODES)


def pair(padding: Any, mode: str, **settings: Any) -> tuple[Function, Function]:
    """convext's convolution and torch's, with the same settings."""
    h, w = (padding, padding) if isinstance(padding, int) else (padding * 2)[:2]
    pads = padding if isinstance(padding, tuple) and len(padding) == 4 else (w, w, h, h)

    def ours(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convext.conv2d(input, weight, bias, padding=padding, padding_mode=mode, **settings)

    def theirs(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if mode == "circular":  # in torch.func.linearize F.pad gives wrong tangents here
            rows = torch.arange(-pads[2], input.size(-2) + pads[3]) % input.size(-2)
            columns = torch.arange(-pads[0], input.size(-1) + pads[1]) % input.size(-1)
            padded = input[..., rows, :][..., columns]
        else:
            padded = F.pad(input, pads, "constant" if mode == "zeros" else mode)
        return F.conv2d(padded, weight, bias, **settings)

    return ours, theirs


def operands(groups: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(2, 2, 4, 4, dtype=dtype),
        torch.randn(4, 2 // groups, 3, 2, dtype=dtype),
        torch.randn(4, dtype=dtype),
    )


def scalar(function: Function) -> Function:
    """A scalar that is not linear in anything, so that no derivative vanishes."""
    return lambda *tensors: function(*tensors).sin().pow(2).sum()


def nonzero(tensors: Any) -> bool:
    return all(bool(t.abs().max() > 0) for t in torch.utils._pytree.tree_leaves(tensors))


TRANSFORMS: dict[str, Callable[[Function, tuple[Tensor, ...]], Any]] = {
    "grad": lambda f, x: grad(scalar(f), (0, 1, 2))(*x),
    "vjp": lambda f, x: vjp(f, *x)[1](torch.ones_like(f(*x)).cos()),
    "jvp": lambda f, x: jvp(f, x, tuple(t.cos() for t in x)),
    "jvp_of_input": lambda f, x: jvp(lambda a: f(a, *x[1:]), x[:1], (x[0].cos(),)),
    "jvp_of_weight": lambda f, x: jvp(lambda a: f(x[0], a, x[2]), x[1:2], (x[1].cos(),)),
    "jacfwd": lambda f, x: jacfwd(f, (0, 1, 2))(*x),
    "jacrev": lambda f, x: jacrev(f, (0, 1, 2))(*x),
    "nested_jacfwd": lambda f, x: jacfwd(jacfwd(scalar(f), 1), 0)(*x),
    "nested_jacrev": lambda f, x: jacrev(jacrev(scalar(f), 1), 0)(*x),
    "hessian": lambda f, x: hessian(scalar(f), 1)(*x),
    "forward_over_reverse": lambda f, x: jvp(grad(scalar(f), 1), x, tuple(t.cos() for t in x)),
    "reverse_over_forward": lambda f, x: grad(
        lambda *y: jvp(scalar(f), y, tuple(t.cos() for t in x))[1], (0, 1)
    )(*x),
    "linearize": lambda f, x: linearize(f, *x)[1](*(t.cos() for t in x)),
    "vmap_of_grad": lambda f, x: vmap(grad(scalar(f), 1), (0, None, None))(*x),
    "vmap_of_jvp": lambda f, x: vmap(lambda v: jvp(lambda w: f(x[0], w, x[2]), (x[1],), (v,))[1])(
        torch.stack([x[1].cos(), x[1].sin()])
    ),
    "grad_of_vmap": lambda f, x: grad(
        lambda *y: vmap(f, (0, None, None))(*y).sin().sum(), (0, 1, 2)
    )(x[0].unsqueeze(1), *x[1:]),
    "vmap_of_hessian": lambda f, x: vmap(hessian(scalar(f), 2), (0, None, None))(*x),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@modes
def test_transforms(transform: Callable[..., Any], padding: Any, mode: str) -> None:
    ours, theirs = pair(padding, mode)
    tensors = operands()
    result = transform(ours, tensors)
    torch.testing.assert_close(result, transform(theirs, tensors))
    assert nonzero(result)


@pytest.mark.parametrize("name", ["grad", "jvp", "vmap_of_grad", "forward_over_reverse"])
def test_transforms_with_groups_strides_and_dilation(name: str) -> None:
    ours, theirs = pair((2, 1), "zeros", stride=(2, 1), dilation=(1, 2), groups=2)
    tensors = operands(groups=2)
    result = TRANSFORMS[name](ours, tensors)
    torch.testing.assert_close(result, TRANSFORMS[name](theirs, tensors))
    assert nonzero(result)


@pytest.mark.parametrize("name", ["vjp", "jvp", "linearize"])
@modes
def test_transforms_of_complex_tensors(name: str, padding: Any, mode: str) -> None:
    ours, theirs = pair(padding, mode)
    tensors = operands(dtype=torch.complex128)
    result = TRANSFORMS[name](ours, tensors)
    torch.testing.assert_close(result, TRANSFORMS[name](theirs, tensors))
    assert nonzero(result)


def test_transforms_of_unbatched_input() -> None:
    input, weight, bias = operands()
    samples = vmap(convext.conv2d, (0, None, None))(input, weight, bias)
    torch.testing.assert_close(samples, F.conv2d(input, weight, bias))
    jacobian = jacfwd(convext.conv2d, 1)(input[0], weight)
    torch.testing.assert_close(jacobian, jacfwd(F.conv2d, 1)(input[0], weight))


@modes
def test_dual_tensors_keep_their_tangents(padding: Any, mode: str) -> None:
    ours, theirs = pair(padding, mode)
    tensors = operands()
    for which in range(3):
        with fwAD.dual_level():
            duals: list[Tensor] = list(tensors)
            duals[which] = fwAD.make_dual(tensors[which], tensors[which].cos())
            primal, tangent = fwAD.unpack_dual(ours(*duals))
            reference = fwAD.unpack_dual(theirs(*duals))
        assert tangent is not None
        torch.testing.assert_close(primal, reference.primal)
        torch.testing.assert_close(tangent, reference.tangent)


@modes
def test_backward_operator_under_transforms(padding: Any, mode: str) -> None:
    """The backward operator by itself: forward-mode, vmap of it, and its own gradient."""
    padding = [padding, padding] if isinstance(padding, int) else list(padding)
    geometry = ([1, 1], padding, [1, 1], 1, mode)
    input, weight, _ = operands()
    grad_output = torch.randn_like(torch.ops.convext.conv2d(input, weight, None, *geometry))

    def backward(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.convext.conv2d_backward(*tensors, *geometry, [True, True, True])

    def reference(grad_output: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        def convolve(*tensors: Tensor) -> Tensor:
            return pair(tuple(padding), mode)[1](*tensors)

        bias = torch.zeros(weight.size(0), dtype=weight.dtype)
        return vjp(convolve, input, weight, bias)[1](grad_output)

    tensors = (grad_output, input, weight)
    tangents = tuple(t.cos() for t in tensors)
    torch.testing.assert_close(backward(*tensors), reference(*tensors))
    torch.testing.assert_close(jvp(backward, tensors, tangents), jvp(reference, tensors, tangents))
    cotangents = tuple(t.sin() for t in reference(*tensors))
    torch.testing.assert_close(
        vjp(backward, *tensors)[1](cotangents), vjp(reference, *tensors)[1](cotangents)
    )


# --------------------------------------------------------------------------------------------------
# vmap, which stays on convext's kernels

BATCHED = [
    dims
    for dims in itertools.product([None, 0, 1], repeat=3)
    if any(dim is not None for dim in dims)
]


def batched(tensors: tuple[Tensor, ...], dims: tuple[int | None, ...]) -> list[Tensor]:
    return [
        tensor if dim is None else torch.stack([tensor, tensor.cos(), 2 * tensor], dim)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", BATCHED, ids=str)
def test_vmap_of_every_mixture(dims: tuple[int | None, ...], groups: int) -> None:
    ours, theirs = pair((1, 2), "reflect", groups=groups, stride=(1, 2))
    tensors = batched(operands(groups), dims)
    convext._C.reset_kernel_runs()
    result = vmap(ours, dims)(*tensors)
    assert sum(convext._C.kernel_runs().values()) == 1, "one native call for the whole batch"
    torch.testing.assert_close(result, vmap(theirs, dims)(*tensors))
    out_last = vmap(ours, dims, out_dims=-1)(*tensors)
    assert torch.equal(out_last.movedim(-1, 0), result)


def test_vmap_without_bias_and_nested() -> None:
    input, weight, _ = operands()
    inputs, weights = (
        torch.stack([input, -input]),
        torch.stack([weight, weight.cos(), weight.sin()]),
    )
    result = vmap(vmap(convext.conv2d, (None, 0)), (0, None))(inputs, weights)
    assert result.shape[:2] == (2, 3)
    reference = vmap(vmap(F.conv2d, (None, 0)), (0, None))(inputs, weights)
    torch.testing.assert_close(result, reference)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", BATCHED, ids=str)
def test_vmap_of_the_backward_operator(dims: tuple[int | None, ...], groups: int) -> None:
    geometry = ([1, 2], [1, 0, 2, 1], [1, 1], groups, "replicate")
    input, weight, _ = operands(groups)
    grad_output = torch.randn_like(torch.ops.convext.conv2d(input, weight, None, *geometry))
    tensors = batched((grad_output, input, weight), dims)
    for mask in ([True, True, True], [False, True, False]):

        def backward(*arguments: Tensor, mask: list[bool] = mask) -> tuple[Tensor, ...]:
            grads = torch.ops.convext.conv2d_backward(*arguments, *geometry, mask)
            return tuple(g for g in grads if g is not None)

        result = vmap(backward, dims)(*tensors)
        assert len(result) == sum(mask)
        for sample in range(3):
            single = [
                tensor if dim is None else tensor.select(dim, sample)
                for tensor, dim in zip(tensors, dims, strict=True)
            ]
            for mapped, alone in zip(result, backward(*single), strict=True):
                torch.testing.assert_close(mapped[sample], alone)


def test_batched_gradients() -> None:
    input, weight, bias = (t.requires_grad_() for t in operands())

    def run(function: Function) -> tuple[Tensor, ...]:
        output = function(input, weight, bias)
        vectors = torch.stack([output.cos(), output.sin()]).detach()
        return torch.autograd.grad(output, (input, weight, bias), vectors, is_grads_batched=True)

    torch.testing.assert_close(run(convext.conv2d), run(F.conv2d))


# --------------------------------------------------------------------------------------------------
# Modules


def test_per_sample_gradients() -> None:
    model = torch.nn.Sequential(
        convext.ConvExt2d(1, 4, 3, padding=1, padding_mode="circular"),
        torch.nn.Tanh(),
        convext.ConvExt2d(4, 2, 3, stride=2),
        torch.nn.Flatten(),
    ).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    samples = torch.randn(5, 1, 8, 8, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample.unsqueeze(0),)).pow(2).sum()

    per_sample = vmap(grad(loss), (None, 0))(parameters, samples)
    for i, sample in enumerate(samples):
        model.zero_grad()
        model(sample.unsqueeze(0)).pow(2).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(per_sample[name][i], parameter.grad)
    assert nonzero(per_sample)


def test_ensembles() -> None:
    """vmap over stacked parameters, natively: the convolutions become groups of one."""
    models = [convext.ConvExt2d(3, 4, 3, padding=1) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    input = torch.randn(2, 3, 6, 6)
    result = vmap(lambda p, b: functional_call(models[0], (p, b), (input,)), randomness="error")(
        {k: v.detach() for k, v in parameters.items()}, buffers
    )
    for output, model in zip(result, models, strict=True):
        torch.testing.assert_close(output, model(input))


def test_hessian_vector_product() -> None:
    ours, theirs = pair(1, "zeros")
    tensors = tuple(t.requires_grad_() for t in operands())
    vectors = tuple(t.detach().cos() for t in tensors)
    result = torch.autograd.functional.hvp(scalar(ours), tensors, vectors)[1]
    torch.testing.assert_close(
        result, torch.autograd.functional.hvp(scalar(theirs), tensors, vectors)[1]
    )
    assert nonzero(result)


def test_functionalize() -> None:
    ours, _ = pair(1, "reflect")
    tensors = operands()
    torch.testing.assert_close(torch.func.functionalize(ours)(*tensors), ours(*tensors))
