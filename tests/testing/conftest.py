"""One thread for the tests of the machinery that judges kernels."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """The machinery is on trial here, not threads, and its problems are too small for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
