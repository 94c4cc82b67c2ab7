"""Where each kernel's source is: the function that computes, then the driver that feeds it."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
LINES = "_sources.json"

# (file below csrc/, function); the first computes, the last cuts the work and moves data. By
# algorithm, and by pass where passes differ.
Places = tuple[tuple[str, str], ...]

_WINOGRAD: Places = (
    ("cpu/winograd_tiles.h", "winograd_sums"),
    ("cpu/winograd_tiles.h", "winograd_input"),
    ("cpu/run_winograd.cpp", "run_winograd"),
)
_WINOGRAD_WGRAD: Places = (
    ("cpu/winograd_tiles.h", "winograd_sums"),
    ("cpu/winograd_wgrad.h", "winograd_grad"),
    ("cpu/run_winograd_wgrad.cpp", "run_winograd_wgrad"),
)
_WINOGRADS: dict[str, Places] = {"fprop": _WINOGRAD, "dgrad": _WINOGRAD, "wgrad": _WINOGRAD_WGRAD}
_GROUPED_PLANES: Places = (
    ("cpu/grouped_planes.h", "planes_block"),
    ("cpu/run_grouped_planes.cpp", "run_grouped_planes"),
)
_DEPTHWISE: Places = (
    ("cpu/depthwise_strip.h", "depthwise_strip"),
    ("cpu/run_strips.cpp", "run_channel_strips"),
)
_GROUPED: Places = (
    ("cpu/grouped_strip.h", "grouped_strip"),
    ("cpu/run_strips.cpp", "run_channel_strips"),
)

CPU: dict[str, Places | dict[str, Places]] = {
    "reference": {
        pass_: (("reference/reference.cpp", f"reference_{pass_}"),)
        for pass_ in ("fprop", "dgrad", "wgrad", "bgrad")
    },
    "indirect": (
        ("cpu/gemm_indirect.h", "gemm_indirect"),
        ("cpu/run_indirect.cpp", "run_indirect"),
    ),
    "indirect_pairs": (
        ("cpu/gemm_pairs.h", "gemm_pairs"),
        ("cpu/run_indirect.cpp", "run_indirect"),
    ),
    "im2col": (("cpu/gemm_indirect.h", "gemm_indirect"), ("cpu/run_im2col.cpp", "run_im2col")),
    "direct": (
        ("cpu/direct_channels.h", "direct_channels_tile"),
        ("cpu/run_direct.cpp", "run_direct"),
    ),
    "direct_planes": (
        ("cpu/direct_planes.h", "direct_planes_tile"),
        ("cpu/run_direct_planes.cpp", "run_direct_planes"),
    ),
    "winograd2": _WINOGRADS,
    "winograd4": _WINOGRADS,
    "polyphase2": _WINOGRADS,
    "polyphase4": _WINOGRADS,
    "pointwise": (
        ("cpu/gemm_strip.h", "gemm_strip"),
        ("cpu/run_pointwise.cpp", "run_pointwise"),
    ),
    "dot": (("cpu/gemm_dot.h", "gemm_dot"), ("cpu/run_dot.cpp", "run_dot")),
    "axpy": (("cpu/gemm_strip.h", "gemm_strip"), ("cpu/run_dot.cpp", "run_axpy")),
    "depthwise": {
        "fprop": _DEPTHWISE,
        "dgrad": _DEPTHWISE,
        "wgrad": (
            ("cpu/wgrad_depthwise.h", "wgrad_depthwise"),
            ("cpu/run_depthwise_wgrad.cpp", "run_depthwise_wgrad"),
        ),
    },
    "grouped": {
        "fprop": _GROUPED,
        "dgrad": _GROUPED,
        "wgrad": (
            ("cpu/wgrad_grouped.h", "wgrad_grouped"),
            ("cpu/run_depthwise_wgrad.cpp", "run_depthwise_wgrad"),
        ),
    },
    "grouped_planes": {
        "fprop": _GROUPED_PLANES,
        "dgrad": _GROUPED_PLANES,
        "wgrad": (
            ("cpu/grouped_planes.h", "planes_wgrad"),
            ("cpu/run_grouped_planes.cpp", "run_grouped_planes"),
        ),
    },
    "outer": (("cpu/wgrad_outer.h", "wgrad_outer"), ("cpu/run_outer.cpp", "run_outer")),
    "rowsum": (("cpu/run_rowsum.cpp", "run_rowsum"),),
}


def _gemm(tile: str) -> dict[str, Places]:
    return {
        pass_: (("cuda/implicit_gemm.cuh", f"{pass_}_gemm"), (f"cuda/{tile}.cuh", "multiply"))
        for pass_ in ("fprop", "dgrad", "wgrad")
    }


def _first(tile: str) -> dict[str, Places]:
    return {
        pass_: (*places, ("cuda/first_layer.cuh", "row_chunk"))
        for pass_, places in _gemm(tile).items()
    }


_WGMMA_DATA: Places = (
    ("cuda/wgmma_data.cuh", "wgmma_data"),
    ("cuda/wgmma_tile.cuh", "multiply"),
)
_WINDOW = ("cuda/depthwise.cuh", "depthwise_window")  # of 3, 5 and 7 columns

CUDA: dict[str, Places | dict[str, Places]] = {
    "naive": {
        pass_: (("cuda/naive.cuh", f"{pass_}_naive"),)
        for pass_ in ("fprop", "dgrad", "wgrad", "bgrad")
    },
    "wgmma": {
        "fprop": _WGMMA_DATA,
        "dgrad": _WGMMA_DATA,
        "wgrad": (("cuda/wgmma_weight.cuh", "wgmma_weight"), ("cuda/wgmma_tile.cuh", "multiply")),
    },
    "wgmma_tf32": _WGMMA_DATA,
    "simt": _gemm("simt_tile"),
    "mma": _gemm("mma_tile"),
    "mma_tf32": _gemm("mma_tile"),
    "simt_first": _first("simt_tile"),
    "mma_first": _first("mma_tile"),
    "mma_tf32_first": _first("mma_tile"),
    "depthwise": {
        "fprop": (("cuda/depthwise.cuh", "fprop_depthwise"), _WINDOW),
        "dgrad": (("cuda/depthwise.cuh", "dgrad_depthwise"), _WINDOW),
        "wgrad": (("cuda/depthwise.cuh", "wgrad_depthwise"),),
    },
    "grouped": {
        pass_: (("cuda/grouped.cuh", f"{pass_}_grouped"),) for pass_ in ("fprop", "dgrad", "wgrad")
    },
    "rowsum": (("cuda/bgrad.cuh", "bgrad_channels"), ("cuda/bgrad.cuh", "bgrad_planes")),
}


def places_of(algorithm: str, pass_: str, *, cuda: bool = False) -> Places:
    """The functions of a kernel.

    Args:
        algorithm: as in a kernel's name.
        pass_: ``"fprop"``, ``"dgrad"``, ``"wgrad"`` or ``"bgrad"``.
        cuda: of the CUDA kernels.
    """
    found = (CUDA if cuda else CPU)[algorithm]
    return found[pass_] if isinstance(found, dict) else found


def sources_of(algorithm: str, pass_: str, *, cuda: bool = False) -> tuple[str, ...]:
    """``"csrc/cpu/gemm_dot.h:133 gemm_dot"``, and so on."""
    return tuple(
        f"csrc/{file}:{_line_of(file, function)} {function}"
        for file, function in places_of(algorithm, pass_, cuda=cuda)
    )


@cache
def _line_of(file: str, function: str) -> int:
    source = HERE.parents[1] / "csrc" / file
    if source.is_file():
        return find_line(source, function)
    return int(_lines_of_the_build()[file][function])


@cache
def _lines_of_the_build() -> dict[str, dict[str, int]]:
    """What CMake left beside the package, which knows no sources once it is installed."""
    lines: dict[str, dict[str, int]] = json.loads(HERE.joinpath(LINES).read_text(encoding="utf-8"))
    return lines


def find_line(source: Path, function: str) -> int:
    """The line on which a function is defined.

    Raises:
        LookupError: it is not there.
    """
    # After its type, or, of CUDA kernels, on a line of its own.
    definition = re.compile(rf"((?<!return)(?<=[\w>]) |^    ){function}\([^;\n]*$", re.M)
    text = source.read_text(encoding="utf-8")
    found = definition.search(text)
    if found is None:
        raise LookupError(f"{source} does not define {function}")
    return text.count("\n", 0, found.start()) + 1


def all_lines(csrc: Path) -> dict[str, dict[str, int]]:
    """file -> function -> line, of every place above."""
    lines: dict[str, dict[str, int]] = {}
    for table in (CPU, CUDA):
        for found in table.values():
            for places in found.values() if isinstance(found, dict) else [found]:
                for file, function in places:
                    lines.setdefault(file, {})[function] = find_line(csrc / file, function)
    return lines


if __name__ == "__main__":  # CMake: csrc/, and the file to write
    Path(sys.argv[2]).write_text(json.dumps(all_lines(Path(sys.argv[1])), indent=1) + "\n")
