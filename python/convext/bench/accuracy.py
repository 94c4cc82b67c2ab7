"""Errors of both peers' float32 results against float64: ``convext bench accuracy``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from convext.bench import operands as ops
from convext.bench.report import SCHEMA, Cell
from convext.bench.runner import plans
from convext.bench.shapes import ConvShape
from convext.bench.verify import TENSORS, reference, relative_error, results

#: An error is normwise: the largest of an element, relative to the largest element.
NEVER_ABOVE = 1e-5
ALWAYS_ALLOWED = 2e-6
TIMES_TORCH = 2.0
RULE = (
    f"an error is at most {TIMES_TORCH:g} times torch's or under {ALWAYS_ALLOWED:g}, "
    f"and never above {NEVER_ABOVE:g}."
)

# The float64 reference of a longer forward pass takes too long for a check that runs in minutes.
MAX_FLOPS = 1e9

PASSES = ("forward", "input_grad", "weight_grad")

BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"


def keeps_rule(torch_error: float, convext_error: float) -> bool:
    """Whether convext's error is one the rule allows; a NaN is not."""
    near = convext_error <= TIMES_TORCH * torch_error or convext_error <= ALWAYS_ALLOWED
    return near and convext_error <= NEVER_ABOVE


def feasible(shape: ConvShape, batches: Sequence[int]) -> list[int]:
    """The batch sizes to run: the smallest, and all others that are not too long."""
    wanted = shape.batches(batches)
    return [n for n in wanted if n == min(wanted) or shape.flops(n) <= MAX_FLOPS]


def errors_of(shape: ConvShape, batches: Sequence[int], layouts: Sequence[str]) -> list[Cell]:
    """A cell with both peers' errors for each batch size, layout and pass of a layer."""
    cells: list[Cell] = []
    for batch in feasible(shape, batches):
        plain = ops.make_operands(shape, batch, torch.float32)
        with torch.no_grad():
            expected = reference(shape, plain)
            for layout in layouts:
                made = plain.to(memory_format=ops.LAYOUTS[layout])
                found = {peer: results(peer, shape, made) for peer in ops.PEERS}
                for index, pass_ in enumerate(PASSES):
                    errors = {
                        peer: float(f"{relative_error(each[index], expected[index]):.3g}")
                        for peer, each in found.items()
                    }
                    (plan,) = plans(shape, batch, "float32", layout, pass_)
                    cells.append(
                        {
                            "layer": shape.name,
                            "table": shape.table,
                            "batch": batch,
                            "layout": layout,
                            "pass": pass_,
                            "tensor": TENSORS[index],
                            **errors,
                            "algorithm": plan["algorithm"],
                            "kept": keeps_rule(
                                **{f"{peer}_error": e for peer, e in errors.items()}
                            ),
                        }
                    )
    return cells


def report_broken(cells: Sequence[Cell], console: Console) -> None:
    """A line for each error that breaks the rule."""
    for cell in cells:
        if cell["kept"]:
            continue
        console.print(
            f"breaks the rule: {cell['layer']}, N={cell['batch']}, {cell['layout']}, "
            f"{cell['pass']}, {cell['algorithm']}: {cell['convext']:.2g}, "
            f"torch {cell['torch']:.2g}",
            style="red",
            markup=False,
        )


def conclude(
    cells: Sequence[Cell],
    environment: dict[str, Any],
    console: Console,
    out: Path | None,
    markdown: Path | None,
) -> int:
    """Print the errors, write what was asked for; 0 if all keep the rule, else 1."""
    broken = [cell for cell in cells if not cell["kept"]]
    console.print(_table(cells))
    if out:
        write_json(out, cells, environment)
        console.print(f"written: {out}")
    if markdown:
        renew(markdown, page(cells, environment))
        console.print(f"written: {markdown}")
    verdict = f"{len(broken)} of {len(cells)} break the rule" if broken else "all keep the rule"
    console.print(f"{len(cells)} errors, {verdict}: {RULE}")
    return 1 if broken else 0


def worst(cells: Sequence[Cell], peer: str) -> float:
    """The largest error of a peer; NaN if there is one."""
    errors = [float(cell[peer]) for cell in cells]
    return next((error for error in errors if error != error), max(errors))


def _algorithms(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((cell["pass"], cell["algorithm"]) for cell in cells))


def _of(cells: Sequence[Cell], **keys: Any) -> list[Cell]:
    return [cell for cell in cells if all(cell[key] == value for key, value in keys.items())]


def _summary(cells: Sequence[Cell]) -> list[list[str]]:
    """pass, algorithm, cells, convext's worst error, torch's worst on the same, worst quotient."""
    rows = []
    for pass_, algorithm in sorted(_algorithms(cells), key=lambda key: PASSES.index(key[0])):
        chosen = _of(cells, **{"pass": pass_, "algorithm": algorithm})
        quotients = [cell["convext"] / cell["torch"] for cell in chosen if cell["torch"] > 0]
        rows.append(
            [
                pass_,
                algorithm,
                str(len(chosen)),
                f"{worst(chosen, 'convext'):.1e}",
                f"{worst(chosen, 'torch'):.1e}",
                f"{max(quotients):.1f}" if quotients else "",
            ]
        )
    return rows


_SUMMARY_HEAD = ["pass", "algorithm", "cells", "convext", "torch", "largest quotient"]


def _table(cells: Sequence[Cell]) -> Table:
    table = Table(
        title="largest error in float32, relative to the largest element", title_justify="left"
    )
    for name in _SUMMARY_HEAD:
        table.add_column(name, justify="left" if name in ("pass", "algorithm") else "right")
    for row in _summary(cells):
        table.add_row(*row)
    return table


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def page(cells: Sequence[Cell], environment: dict[str, Any]) -> str:
    """The generated part of the page: by algorithm, then layer by layer."""
    own, theirs = environment["convext"], environment["torch"]
    broken = sum(not cell["kept"] for cell in cells)
    lines = [
        f"convext {own['version']} ({own['isa']}) and torch {theirs['version']} (oneDNN "
        f"{theirs['onednn']}, {theirs['cpu_capability']}) on {environment['cpu']['model']}: "
        f"{len(cells)} results, {broken or 'none'} of which "
        + ("breaks the rule." if broken in (0, 1) else "break the rule."),
        "",
        *_markdown(_SUMMARY_HEAD, _summary(cells)),
        "",
        "By layer, the worst over batch sizes and layouts, convext's and torch's in units of 1e-7:",
        "",
    ]
    rows = []
    for name in dict.fromkeys(cell["layer"] for cell in cells):
        mine = _of(cells, layer=name)
        row = [name, ", ".join(str(n) for n in dict.fromkeys(cell["batch"] for cell in mine))]
        for pass_ in PASSES:
            chosen = _of(mine, **{"pass": pass_})
            row += [f"{worst(chosen, peer) * 1e7:.1f}" for peer in ("convext", "torch")]
        rows.append(row)
    head = ["layer", "N"]
    for pass_ in PASSES:
        head += [pass_, "torch"]
    return "\n".join([*lines, *_markdown(head, rows)])


def check_markers(path: Path) -> str:
    """The page's text, if it has both markers.

    Raises:
        ValueError: it cannot be read, or lacks one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--markdown {path}: {error.strerror}") from error
    if BEGIN not in text or END not in text[text.index(BEGIN) :]:
        raise ValueError(f"--markdown {path}: no lines {BEGIN} and {END}")
    return text


def renew(path: Path, generated: str) -> None:
    """Put the generated text between the page's markers, in place of what is there."""
    text = check_markers(path)
    start = text.index(BEGIN) + len(BEGIN)
    end = text.index(END, start)
    path.write_text(f"{text[:start]}\n\n{generated}\n\n{text[end:]}", encoding="utf-8")


def write_json(path: Path, cells: Sequence[Cell], environment: dict[str, Any]) -> None:
    """The errors, a line each; what a run that is interrupted has so far is valid too."""
    head = {"schema": SCHEMA, "kind": "accuracy", "rule": RULE, "environment": environment}
    lines = ",\n".join("    " + json.dumps(cell) for cell in cells)
    body = json.dumps(head, indent=2).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{body},\n  "cells": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
