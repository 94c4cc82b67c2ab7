"""Every rung once on small problems, for a tool that watches the device: test_gpu_sanitizer.py."""

from __future__ import annotations

import torch

import convext
from convext import _C
from convext.testing import Problem

PROBLEMS = [
    Problem(N=2, C=3, H=6, W=7, K=5, padding=(1, 1), bias=True),
    Problem(N=1, C=24, H=9, W=8, K=40, padding=(1, 0), stride=(2, 1), bias=True),
    Problem(N=2, C=8, H=7, W=9, K=16, groups=2, padding=(2, 1), dilation=(1, 2), bias=True),
    Problem(N=2, C=12, H=8, W=9, K=12, groups=12, padding=(1, 1), stride=(1, 2), bias=True),
    Problem(N=1, C=4, H=6, W=6, K=6, padding=(2, 1), padding_mode="reflect", bias=True),
]


def run(problem: Problem, direction: str) -> None:
    """One pass, in memory as it comes: `Problem.run` fills it, and nothing would be unwritten."""
    input, weight, bias, grad_output = problem.tensors()
    geometry = (problem.stride, problem.padding, problem.dilation, problem.groups)
    if direction == "fprop":
        convext.conv2d(input, weight, bias, *geometry, padding_mode=problem.padding_mode)
        return
    mask = [direction == each for each in ("dgrad", "wgrad", "bgrad")]
    torch.ops.convext.conv2d_backward(
        grad_output, input, weight, *geometry, problem.padding_mode, mask
    )


def main() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    major, minor = torch.cuda.get_device_capability()
    for rung in _C.cuda_kernels():
        if rung["least_capability"] > 10 * major + minor:
            continue
        runs = 0
        for problem in PROBLEMS:
            for layout in ("contiguous", "channels_last"):
                changed = problem.replace(
                    device="cuda", dtype=getattr(torch, rung["dtype"]), layout=layout
                )
                try:
                    with convext.force_plan(f"cuda:{rung['pass']}={rung['name']}"):
                        run(changed, rung["pass"])
                except RuntimeError as error:
                    if "no CUDA kernel can run" not in str(error):
                        raise
                else:
                    runs += 1
        assert runs > 0, rung["name"]
    torch.cuda.synchronize()
    print("every rung ran")


if __name__ == "__main__":
    main()
