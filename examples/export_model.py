"""Export a model: for Python, for machines without convext, and as a compiled library.

``torch.export`` keeps convext's operators, so an exported program runs its kernels wherever convext
is installed. ``convext.decompositions()`` rewrites them as PyTorch's own. AOTInductor compiles
a program ahead of time; that takes a C++ compiler.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn

import convext


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    return convext.convert(model).eval()


def main() -> None:
    model = make_model()
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(
            model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: batch},)
        )
        images = torch.randn(5, 3, 16, 16)  # another batch size than the one exported with
        expected = model(images)

        # Saved, loaded, and run by convext.
        torch.export.save(program, Path(folder) / "model.pt2")
        loaded = torch.export.load(Path(folder) / "model.pt2")
        assert "convext" in str(loaded.graph)
        torch.testing.assert_close(loaded.module()(images), expected)
        print("exported: runs convext's kernels")

        # Without convext: its operators as PyTorch's.
        portable = program.run_decompositions(convext.decompositions())
        assert "convext" not in str(portable.graph)
        torch.testing.assert_close(portable.module()(images), expected, rtol=1e-4, atol=1e-4)
        print("decomposed: runs without convext")

        # Compiled ahead of time.
        if shutil.which(os.environ.get("CXX", "g++").split()[0]) is None:
            print("no C++ compiler: not compiled ahead of time")
            return
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder) / "compiled.pt2")
        )
        compiled = torch._inductor.aoti_load_package(package)
        torch.testing.assert_close(compiled(images), expected)
        print("compiled ahead of time: a library that calls convext's kernels")


if __name__ == "__main__":
    main()
