"""convext on CUDA tensors as torch sees it: gradients, transforms, streams, graphs, memory."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import convext


def operands(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [
        torch.randn(2, 4, 6, 7, dtype=dtype, device="cuda", requires_grad=True),
        torch.randn(6, 2, 3, 3, dtype=dtype, device="cuda", requires_grad=True),
        torch.randn(6, dtype=dtype, device="cuda", requires_grad=True),
    ]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_gradcheck(mode: str) -> None:
    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return convext.conv2d(*tensors, (2, 1), (1, 2), 1, 2, padding_mode=mode)

    assert torch.autograd.gradcheck(function, operands())
    assert torch.autograd.gradgradcheck(function, operands())


def test_opcheck() -> None:
    arguments = ([1, 1], [1, 1], [1, 1], 2, "zeros")
    torch.library.opcheck(torch.ops.convext.conv2d.default, (*operands(), *arguments))


def test_autocast() -> None:
    layer = convext.ConvExt2d(8, 8, 3, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = layer(torch.randn(2, 8, 9, 9, device="cuda"))
    assert output.dtype is torch.bfloat16
    output.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype is torch.float32


def test_a_model_trains_alike() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, groups=4)
    ).to("cuda", torch.float64)
    ours = convext.convert(copy.deepcopy(model))
    input = torch.randn(4, 3, 16, 16, dtype=torch.float64, device="cuda")
    for each in (model, ours):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            each(input).square().mean().backward()
            optimizer.step()
    for mine, theirs in zip(ours.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_compile() -> None:
    layer = convext.ConvExt2d(8, 8, 3, padding=1, device="cuda")
    input = torch.randn(2, 8, 9, 9, device="cuda")
    torch.testing.assert_close(torch.compile(layer)(input), layer(input))


def test_a_graph_captures_it() -> None:
    """Nothing waits for the device, and nothing depends on where the host is."""
    layer = convext.ConvExt2d(32, 32, 3, padding=1, device="cuda", dtype=torch.float16)
    input = torch.randn(4, 32, 14, 14, device="cuda", dtype=torch.float16, requires_grad=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            torch.autograd.grad(layer(input).sum(), [input, layer.weight])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = layer(input)
        grads = torch.autograd.grad(output.sum(), [input, layer.weight])
    with torch.no_grad():
        input.copy_(torch.randn_like(input))
    graph.replay()
    torch.cuda.synchronize()
    again = layer(input)
    assert torch.equal(output, again)
    for captured, grad in zip(
        grads, torch.autograd.grad(again.sum(), [input, layer.weight]), strict=True
    ):
        assert torch.equal(captured, grad)


def test_it_runs_on_the_current_stream() -> None:
    input = torch.randn(8, 64, 56, 56, device="cuda")
    weight = torch.randn(64, 64, 3, 3, device="cuda")
    expected = convext.conv2d(input, weight)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    late = torch.zeros_like(input)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late.copy_(input)
        output = convext.conv2d(late, weight)
    stream.synchronize()
    assert torch.equal(output, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_device() -> None:
    input, weight = torch.randn(2, 8, 9, 9), torch.randn(8, 8, 3, 3)
    output = convext.conv2d(input.to("cuda:1"), weight.to("cuda:1"))
    assert output.device == torch.device("cuda:1")
    torch.testing.assert_close(output.cpu(), convext.conv2d(input, weight))
    with pytest.raises(RuntimeError, match="device"):
        convext.conv2d(input.to("cuda:1"), weight.to("cuda:0"))


def test_backward_on_a_thread_without_a_context() -> None:
    """The first that autograd's thread does may be to describe tensors to the driver."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs compute capability 9.0")
    code = """
import torch, convext
tensors = [torch.randn(size, device="cuda", dtype=torch.bfloat16) for size in
           [(8, 64, 28, 28), (64, 64, 3, 3), (8, 64, 26, 26)]]
input, weight, grad = (t.to(memory_format=torch.channels_last) for t in tensors)
input.requires_grad_(), weight.requires_grad_()
output = convext.conv2d(input, weight)
with convext.force_plan("cuda:dgrad=wgmma,wgrad=wgmma"):
    output.backward(grad)
print(input.grad.isfinite().all().item(), weight.grad.isfinite().all().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


def test_wrong_devices_and_dtypes() -> None:
    input, weight = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3)
    with pytest.raises(RuntimeError, match="device"):
        convext.conv2d(input.cuda(), weight)
    with pytest.raises(RuntimeError, match="device"):
        convext.conv2d(input, weight.cuda())
    with pytest.raises(RuntimeError, match="no integers"):
        convext.conv2d(input.cuda().int(), weight.cuda().int())
    with pytest.raises(RuntimeError, match="same dtype"):
        convext.conv2d(input.cuda().half(), weight.cuda())


@pytest.mark.parametrize("shape", [(0, 4, 6, 6), (2, 0, 6, 6)])
def test_empty(shape: tuple[int, ...]) -> None:
    input = torch.randn(shape, device="cuda", requires_grad=True)
    weight = torch.randn(3, shape[1], 1, 1, device="cuda", requires_grad=True)
    output = convext.conv2d(input, weight, padding=1)
    expected = nn.functional.conv2d(input, weight, padding=1)
    assert output.shape == expected.shape
    grads = torch.autograd.grad(output.sum(), [input, weight])
    wanted = torch.autograd.grad(expected.sum(), [input, weight])
    for grad, want in zip(grads, wanted, strict=True):
        assert torch.equal(grad, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_misaligned(dtype: torch.dtype) -> None:
    """Tensors that begin anywhere, and biases that are not dense."""
    size = 2 * 16 * 9 * 9
    memory = torch.randn(size + 1, dtype=dtype, device="cuda")
    input = memory[1:].view(2, 9, 9, 16).permute(0, 3, 1, 2)
    weight = torch.randn(8, 16, 3, 3, dtype=dtype, device="cuda")
    bias = torch.randn(16, dtype=dtype, device="cuda")[::2]
    aligned = input.clone(memory_format=torch.channels_last)
    expected = convext.conv2d(aligned, weight, bias.clone())
    assert torch.equal(convext.conv2d(input, weight, bias), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_more_than_2_to_the_31_elements(dtype: torch.dtype) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 40 << 30:
        pytest.skip("needs 40 GiB of free memory")
    input = torch.empty(
        (1100, 32, 256, 256), dtype=dtype, device="cuda", memory_format=torch.channels_last
    ).zero_()
    assert input.numel() > 2**31
    input[-1] = torch.randn(32, 256, 256, dtype=dtype, device="cuda")
    weight = torch.randn(8, 32, 3, 3, dtype=dtype, device="cuda")
    input.requires_grad_()
    weight.requires_grad_()
    output = convext.conv2d(input, weight, padding=1)
    last = input[-1:].detach().requires_grad_()
    expected = convext.conv2d(last, weight, padding=1)
    assert torch.equal(output[-1:], expected)
    assert not output[:-1].any()
    grad_output = torch.zeros_like(output)
    grad_output[-1:] = torch.randn_like(expected)
    grads = torch.autograd.grad(output, [input, weight], grad_output)
    wanted = torch.autograd.grad(expected, [last, weight], grad_output[-1:])
    assert torch.equal(grads[0][-1:], wanted[0])
    assert not grads[0][:-1].any()
    torch.testing.assert_close(grads[1], wanted[1])
