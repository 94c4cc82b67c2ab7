"""One thread, and kernels that can be made wrong."""

import pytest
import torch

from convext import _C, _ops
from convext.testing import PASSES


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The layers here are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def spoil(monkeypatch):
    """Makes a kernel wrong in one pass, for weights of a given shape: ``spoil(pass, change)``."""
    forward, backward = _ops.short_conv2d, _C.short_conv2d_backward

    def install(name, change, shape=(6, 8, 3, 3)):
        def spoiled_forward(input, weight, *args):
            output = forward(input, weight, *args)
            if output is not None and weight.shape == shape and name == "forward":
                with torch.no_grad():
                    change(output)
            return output

        def spoiled_backward(grad_output, input, weight, *args):
            grads = backward(grad_output, input, weight, *args)
            if grads is not None and weight.shape == shape and name != "forward":
                change(grads[PASSES.index(name) - 1])
            return grads

        monkeypatch.setattr(_ops, "short_conv2d", spoiled_forward)
        monkeypatch.setattr(_C, "short_conv2d_backward", spoiled_backward)

    return install
