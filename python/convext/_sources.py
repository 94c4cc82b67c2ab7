"""Where each kernel's source is: the function that computes, then the driver that feeds it; and
which chapter of the book explains it."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
LINES = "_sources.json"

# (file below csrc/, function or struct); the first computes, the last cuts the work and moves data.
# By algorithm, and by pass where passes differ.
Places = tuple[tuple[str, str], ...]


def _winograd(forward: tuple[str, str], input_grad: tuple[str, str]) -> dict[str, Places]:
    """Of one transform: weight grad has the same as forward."""
    dense: Places = (
        ("cpu/winograd_tiles.h", "winograd_sums"),
        ("cpu/winograd_tiles.h", "winograd_input"),
    )
    driver = ("cpu/run_winograd.cpp", "run_winograd")
    return {
        "fprop": (*dense, forward, driver),
        "dgrad": (*dense, input_grad, driver),
        "wgrad": (
            ("cpu/wgrad_outer.h", "wgrad_outer"),
            ("cpu/winograd_wgrad.h", "winograd_grad"),
            forward,
            ("cpu/run_winograd_wgrad.cpp", "run_winograd_wgrad"),
        ),
    }


_WINOGRAD2, _WINOGRAD4 = (("cpu/winograd_transform.h", f"Winograd<{m}>") for m in (2, 4))
_POLYPHASE = _winograd(
    ("cpu/winograd_polyphase.h", "Polyphase"), ("cpu/winograd_polyphase.h", "PolyphaseGrad")
)
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
    "winograd2": _winograd(_WINOGRAD2, _WINOGRAD2),
    "winograd4": _winograd(_WINOGRAD4, _WINOGRAD4),
    "polyphase2": _POLYPHASE,
    "polyphase4": _POLYPHASE,
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
    "rowsum": (("cpu/pack.h", "add_rows"), ("cpu/run_rowsum.cpp", "run_rowsum")),
}

# What runs besides, by the plan: strips of whole planes, before the driver that asks for them; the
# border's gradient, after the driver.
PLANES = ("cpu/run_plane_strips.cpp", "run_plane_strips")
BORDER = ("cpu/run_border.cpp", "run_border")


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


# The chapters of docs/book: what the table of algorithms in its index says. By pass where there are
# several.
CHAPTERS: dict[str, str | dict[str, str]] = {
    "reference": "gemm",
    "indirect": {"fprop": "pointers", "dgrad": "input_grad"},
    "indirect_pairs": "half",
    "im2col": "gemm",
    "direct": "direct",
    "direct_planes": "direct",
    "pointwise": "pointwise",
    "dot": "small",
    "axpy": "small",
    "depthwise": "depthwise",
    "grouped": "depthwise",
    "grouped_planes": "depthwise",
    "winograd2": "winograd",
    "winograd4": "winograd",
    "polyphase2": "polyphase",
    "polyphase4": "polyphase",
    "outer": "weight_grad",
    "rowsum": "weight_grad",
}
CHAPTER_OF_CUDA = "cuda"


def chapter_of(algorithm: str, pass_: str, *, cuda: bool = False) -> str:
    """``"docs/book/small.md"``; empty if there is no such algorithm.

    Args:
        algorithm, pass_, cuda: as in :func:`places_of`.
    """
    if cuda:
        return f"docs/book/{CHAPTER_OF_CUDA}.md" if algorithm in CUDA else ""
    found = CHAPTERS.get(algorithm, "")
    name = found.get(pass_, "") if isinstance(found, dict) else found
    return f"docs/book/{name}.md" if name else ""


def places_of(algorithm: str, pass_: str, *, cuda: bool = False) -> Places:
    """The functions, and structs of functions, of a kernel.

    Args:
        algorithm: as in a kernel's name.
        pass_: ``"fprop"``, ``"dgrad"``, ``"wgrad"`` or ``"bgrad"``.
        cuda: of the CUDA kernels.

    Raises:
        KeyError: the algorithm has no such pass.
    """
    found = (CUDA if cuda else CPU)[algorithm]
    return found[pass_] if isinstance(found, dict) else found


def sources_of(
    algorithm: str, pass_: str, *, cuda: bool = False, planes: bool = False, border: bool = False
) -> tuple[str, ...]:
    """``"csrc/cpu/gemm_dot.h:133 gemm_dot"``, and so on.

    Args:
        algorithm, pass_, cuda: as in :func:`places_of`.
        planes: whether strips take whole planes.
        border: whether the border's gradient is a step of its own.
    """
    *kernels, driver = places_of(algorithm, pass_, cuda=cuda)
    places = [*kernels, *([PLANES] if planes else []), driver, *([BORDER] if border else [])]
    return tuple(f"csrc/{file}:{_line_of(file, name)} {name}" for file, name in places)


@cache
def _line_of(file: str, name: str) -> int:
    source = HERE.parents[1] / "csrc" / file
    if source.is_file():
        return find_line(source, name)
    return int(_lines_of_the_build()[file][name])


@cache
def _lines_of_the_build() -> dict[str, dict[str, int]]:
    """What CMake left beside the package, which knows no sources once it is installed."""
    lines: dict[str, dict[str, int]] = json.loads(HERE.joinpath(LINES).read_text(encoding="utf-8"))
    return lines


def find_line(source: Path, name: str) -> int:
    """The line on which a function or a struct is defined.

    Raises:
        LookupError: it is not there.
    """
    # A function's name stands after its type, or, of CUDA kernels, on a line of its own.
    word = re.escape(name)
    definition = re.compile(
        rf"((?<!return)(?<=[\w>]) |^    ){word}\([^;\n]*$|^struct {word} {{$", re.M
    )
    text = source.read_text(encoding="utf-8")
    found = definition.search(text)
    if found is None:
        raise LookupError(f"{source} does not define {name}")
    return text.count("\n", 0, found.start()) + 1


def all_lines(csrc: Path) -> dict[str, dict[str, int]]:
    """file -> name -> line, of every place above."""
    tables = [found for table in (CPU, CUDA) for found in table.values()]
    every = {PLANES, BORDER}
    for found in tables:
        for places in found.values() if isinstance(found, dict) else [found]:
            every.update(places)
    lines: dict[str, dict[str, int]] = {}
    for file, name in sorted(every):
        lines.setdefault(file, {})[name] = find_line(csrc / file, name)
    return lines


if __name__ == "__main__":  # CMake: csrc/, and the file to write
    Path(sys.argv[2]).write_text(json.dumps(all_lines(Path(sys.argv[1])), indent=1) + "\n")
