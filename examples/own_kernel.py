"""A convolution of one's own, compiled here and held to float64 by ``convext.testing``.

Its source is own_kernel.cpp. What it cannot do it refuses; what it does has to be right on every
edge, and a bug planted on purpose has to be found.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.testing import Problem, assert_correct, edge_problems, random_problems

SOURCE = Path(__file__).with_name("own_kernel.cpp")


def compiled(source: Path, folder: str) -> Any:
    library = Path(folder) / "own_kernel.so"
    compiler = os.environ.get("CXX", "g++").split()
    subprocess.run([*compiler, "-O3", "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def supported(problem: Problem) -> bool:
    """A kernel's rule: what it can run."""
    return (
        problem.groups == 1
        and problem.padding_mode == "zeros"
        and problem.dtype == torch.float32
        and problem.layout == "contiguous"
        and problem.N > 0
    )


def convolution(library: Any) -> Callable[..., Tensor]:
    """The kernel as a function that takes what ``F.conv2d`` does."""

    def conv2d(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        padding_mode: str,
    ) -> Tensor:
        if groups != 1 or padding_mode != "zeros":
            raise NotImplementedError("one group and padding of zeros")
        sides = padding if len(padding) == 4 else (padding[1], padding[1], padding[0], padding[0])
        padded = F.pad(input, list(sides)).contiguous()
        (N, C, H, W), (K, _, R, S) = padded.shape, weight.shape
        P = (H - dilation[0] * (R - 1) - 1) // stride[0] + 1
        Q = (W - dilation[1] * (S - 1) - 1) // stride[1] + 1
        output = torch.empty(N, K, P, Q)
        sizes = (N, C, H, W, K, R, S, P, Q, *stride, *dilation)
        library.own_conv2d(
            (ctypes.c_int64 * len(sizes))(*sizes),
            ctypes.c_void_p(padded.data_ptr()),
            ctypes.c_void_p(weight.contiguous().data_ptr()),
            None if bias is None else ctypes.c_void_p(bias.data_ptr()),
            ctypes.c_void_p(output.data_ptr()),
        )
        return output

    return conv2d


def main() -> None:
    plain = {"groups": 1, "padding_mode": "zeros", "layout": "contiguous"}
    random = [problem.replace(**plain) for problem in random_problems(60, torch.float32)]
    problems = [p for p in [*edge_problems(torch.float32), *random] if supported(p)]
    assert len(problems) > 60
    with tempfile.TemporaryDirectory() as folder:
        own = convolution(compiled(SOURCE, folder))
        for problem in problems:
            assert_correct(problem, ["forward"], conv2d=own)
        print(f"{len(problems)} problems, all right")

        # A residue that is one column short: the checks must see it.
        text = SOURCE.read_text()
        wrong = text.replace("j < columns; ++j) y[j]", "j < columns - 1; ++j) y[j]")
        assert wrong != text
        broken = Path(folder) / "broken.cpp"
        broken.write_text(wrong)
        with tempfile.TemporaryDirectory() as other:
            planted = convolution(compiled(broken, other))
            try:
                for problem in problems:
                    assert_correct(problem, ["forward"], conv2d=planted)
            except AssertionError as error:
                print(f"a planted bug is found: {str(error).splitlines()[0]}")
            else:
                raise AssertionError("a planted bug was not found")


if __name__ == "__main__":
    main()
