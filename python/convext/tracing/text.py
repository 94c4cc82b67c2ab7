"""Traces as lines of text. A line is pieces of text with a style each, as ``rich`` names them; who
wants plain text leaves the styles out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from .convolution import ConvTrace, Window
from .model import ModelTrace
from .setting import Setting

Piece = tuple[str, str]
Line = list[Piece]

STEPS = 3
"""Windows of a convolution that are shown unless more are asked for."""

MOST_CELLS = 18
"""Rows and columns of a grid that are shown; of a larger one the first."""

MOST_TERMS = 27
"""Products of a sum that are written out."""

PADDING, DROPPED, WINDOW, STRONG, FAINT = "cyan", "red", "bold green", "bold", "dim"


def plain(lines: Sequence[Line]) -> str:
    """The lines without styles."""
    return "\n".join("".join(piece for piece, _ in line).rstrip() for line in lines)


def title(trace: ConvTrace | ModelTrace) -> str:
    """The trace in half a line."""
    if isinstance(trace, ModelTrace):
        size = "x".join(map(str, trace.input_size))
        return f"{trace.name}, {len(trace.layers)} layers, on {size}"
    s = trace.setting
    parts = [
        f"input {s.C}x{s.H}x{s.W}",
        f"kernel {s.R}x{s.S}",
        f"stride {_both(s.stride)}",
        f"padding {_padding(s)}",
    ]
    if s.dilation != (1, 1):
        parts.append(f"dilation {_both(s.dilation)}")
    if s.groups > 1:
        parts.append(f"groups {s.groups}")
    P, Q = s.output_size
    return ", ".join(parts) + f" -> output {s.K}x{P}x{Q}"


def lines(trace: ConvTrace | ModelTrace, steps: int = STEPS) -> list[Line]:
    """A trace as text.

    Args:
        trace: of a convolution or a model.
        steps: how many windows of a convolution to show.
    """
    if isinstance(trace, ModelTrace):
        return _model_lines(trace)
    s = trace.setting
    result: list[Line] = [[(title(trace), STRONG)], []]
    result += _formula_lines(s)
    result += _input_lines(trace)
    result += [[], *_step_lines(trace, steps)]
    for k in range(min(s.K, 4)):
        result += [[], [(f"Output, channel {k}", STRONG)]]
        result += grid(trace.output[k])
    if s.K > 4:
        result.append([(f"  ... and {s.K - 4} more channels", FAINT)])
    ok, sentence = trace.check()
    result += [[], [("Check: ", STRONG), (sentence + ".", "green" if ok else "bold red")], []]
    return result + _plan_lines(trace)


def _formula_lines(s: Setting) -> list[Line]:
    height, width = s.padded_size
    left, right, top, bottom = s.pad
    rule = ", floor((in + before + after - dilation * (kernel - 1) - 1) / stride) + 1"
    result: list[Line] = [[("Output size", STRONG), (rule, FAINT)]]
    result += [[(f"  {name} = {formula}", "")] for name, formula in s.formula.items()]
    sides = f"{top} above, {bottom} below, {left} left, {right} right"
    result.append([(f"  padded input {height}x{width}: {sides}", "")])
    for name, dropped in zip(("rows", "columns"), s.dropped, strict=True):
        if dropped:
            listed = ", ".join(map(str, dropped))
            which = f"{name if len(dropped) > 1 else name[:-1]} {listed}"
            reach = "of the padded input: no window gets there"
            result.append([(f"  floor drops {which} {reach}", DROPPED)])
    return [*result, []]


def _input_lines(trace: ConvTrace) -> list[Line]:
    s = trace.setting
    result: list[Line] = [[("Input, channel 0", STRONG)], *grid(trace.input[0])]
    rows, columns = map(set, s.dropped)
    if not any(s.pad) and not rows and not columns:
        return result
    left, _, top, _ = s.pad

    def mark(row: int, column: int) -> tuple[str, str, str]:
        dropped = row in rows or column in columns
        padding = not (top <= row < top + s.H and left <= column < left + s.W)
        style = DROPPED if dropped else PADDING if padding else ""
        return ("[", "]", style) if padding else (" ", " ", style)

    legend = f", padding ({s.padding_mode}) in [ ]" if any(s.pad) else ""
    if rows or columns:
        legend += ", x where floor drops a row or column"
    result += [[], [("Padded input, channel 0", STRONG), (legend, FAINT)]]
    return result + grid(trace.padded[0], mark, dropped=(rows, columns))


def grid(
    values: Tensor,
    mark: Callable[[int, int], tuple[str, str, str]] = lambda row, column: (" ", " ", ""),
    dropped: tuple[set[int], set[int]] = (set(), set()),
    names: tuple[Sequence[int], Sequence[int]] | None = None,
) -> list[Line]:
    """A matrix (rows, columns) with the numbers of its rows and columns.

    Args:
        values: the matrix.
        mark: of a row and a column: what stands before and after the value, and its style.
        dropped: rows and columns marked with an x.
        names: numbers of the rows and columns, if these are not 0, 1, 2 and so on.
    """
    height, width = (min(size, MOST_CELLS) for size in values.shape)
    rows, columns = names or (range(height), range(width))
    cells = [[number(values[i, j]) for j in range(width)] for i in range(height)]
    longest = max(len(text) for text in itertools.chain(*cells, map(str, columns)))
    numbers = "".join(f"{column:>{longest + 1}} " for column in columns[:width])
    result: list[Line] = [[("      " + numbers, FAINT)]]
    for i, row in enumerate(cells):
        line: Line = [(f"  {rows[i]:>3} ", FAINT)]
        for j, cell in enumerate(row):
            before, after, style = mark(i, j)
            line.append((before + cell.rjust(longest) + after, style))
        if i in dropped[0]:
            line.append((" x", DROPPED))
        if values.shape[1] > width:
            line.append((" ...", FAINT))
        result.append(line)
    if values.shape[0] > height:
        result.append([("      ...", FAINT)])
    if any(column < width for column in dropped[1]):
        marks = "".join(
            ("x" if column in dropped[1] else "").rjust(longest + 1) + " "
            for column in range(width)
        )
        result.append([("      " + marks, DROPPED)])
    return result


def _step_lines(trace: ConvTrace, steps: int) -> list[Line]:
    result: list[Line] = []
    count = trace.output[0].numel()
    for index, window in enumerate(itertools.islice(trace.windows(), steps)):
        where = f"Window {index + 1} of {count}: output[0, {window.p}, {window.q}]"
        rows, columns = (", ".join(map(str, taps)) for taps in (window.rows, window.columns))
        result.append([(where, WINDOW), (f", padded rows {rows}, columns {columns}", FAINT)])
        result += _window_lines(trace, window)
        result.append([])
    if steps < count:
        more = f"{count - steps} more windows of this channel"
        how = f"--steps {count} in a terminal, to_text({count}) in Python"
        result.append([(f"{more}: {how} shows all", FAINT)])
    elif result:
        result.pop()
    return result


def _window_lines(trace: ConvTrace, window: Window) -> list[Line]:
    """The window, the weight and the products of each channel side by side, and the sum."""
    s = trace.setting
    left, _, top, _ = s.pad
    inside = [
        [top <= row < top + s.H and left <= column < left + s.W for column in window.columns]
        for row in window.rows
    ]
    result: list[Line] = []
    channels = window.values.shape[0]
    for c in range(min(channels, 4)):
        if channels > 1:
            result.append([(f"    channel {window.first_channel + c}", FAINT)])
        blocks = [[[number(value) for value in row] for row in block[c]] for block in window[6:9]]
        longest = [max(len(text) for row in block for text in row) for block in blocks]
        for i in range(min(s.R, MOST_CELLS)):
            middle = i == (s.R - 1) // 2
            line: Line = [("    ", "")]
            for at, block in enumerate(blocks):
                line.append((("   ", " * ", " = ")[at] if middle else "   ", FAINT))
                for j, cell in enumerate(block[i][:MOST_CELLS]):
                    padding = at == 0 and not inside[i][j]
                    before, after = "[]" if padding else "  "
                    style = PADDING if padding else STRONG if at == 2 else ""
                    line.append((before + cell.rjust(longest[at]) + after, style))
            result.append(line)
    if channels > 4:
        result.append([(f"    ... and {channels - 4} more channels", FAINT)])
    terms = window.products.flatten().tolist()
    shown = added(terms[:MOST_TERMS])
    if len(terms) > MOST_TERMS:
        shown += f" + ... ({len(terms)} products)"
    if trace.bias is not None:
        shown += f", bias {number(trace.bias[window.k])}"
    result.append([("    sum ", FAINT), (shown, ""), (f" = {number(window.total)}", STRONG)])
    result.append([(f"    convext.conv2d returned {number(window.output)}", FAINT)])
    return result


def _plan_lines(trace: ConvTrace) -> list[Line]:
    p = trace.problem
    batch = f" of the batch of {p.N}" if p.N > 1 else ""
    result: list[Line] = [[(f"Planned kernels{batch}, {p.dtype}, {p.input_layout}", STRONG)]]
    for name, plan in trace.plans.items():
        mr, nr = plan["tile"]
        tile = f"tile {mr}x{nr}"
        what = f"{plan['kernel']:<40} {tile:<10}"
        result.append([(f"  {name:<12}", FAINT), (what, ""), (plan["reason"], FAINT)])
    return result


LAYER_COLUMNS = ("layer", "input", "padded", "kernel", "output", "planned forward")
STATISTICS_COLUMNS = ("layer", "type", "output", "mean", "std", "min", "max", "ms")


def layer_rows(trace: ModelTrace, convolutions: bool = False) -> list[list[str]]:
    """The cells under :data:`LAYER_COLUMNS`; sizes without the batch."""
    layers = trace.convolutions if convolutions else trace.layers
    return [
        [
            layer.name,
            _size(layer.input_size),
            layer.padded,
            layer.kernel,
            _size(layer.output_size),
            "-" if layer.plans is None else layer.plans["forward"]["kernel"],
        ]
        for layer in layers
    ]


def statistics_rows(trace: ModelTrace) -> list[list[str]]:
    """The cells under :data:`STATISTICS_COLUMNS`."""
    return [
        [
            layer.name,
            layer.type,
            _size(layer.output_size),
            *(
                "-" if value is None else f"{value:.3g}"
                for value in (layer.mean, layer.std, layer.minimum, layer.maximum)
            ),
            f"{layer.milliseconds:.3f}",
        ]
        for layer in trace.layers
    ]


def _model_lines(trace: ModelTrace) -> list[Line]:
    result: list[Line] = [[(title(trace), STRONG)], []]
    result += _columns(LAYER_COLUMNS, layer_rows(trace))
    result.append([])
    result += _columns(STATISTICS_COLUMNS, statistics_rows(trace))
    return result


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Line]:
    widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    return [
        [("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), style)]
        for row, style in [(heads, STRONG), *((row, "") for row in rows)]
    ]


def number(value: float | Tensor) -> str:
    """A value in up to four digits; integers as they are."""
    value = float(value) + 0.0  # no -0
    return f"{value:.0f}" if value == round(value, 0) and abs(value) < 1e6 else f"{value:.4g}"


def added(terms: Sequence[float]) -> str:
    """A sum as it is written: ``2 - 3 + 1``."""
    first = number(terms[0])
    return first + "".join(f" {'-' if term < 0 else '+'} {number(abs(term))}" for term in terms[1:])


def _size(size: Sequence[int]) -> str:
    return "x".join(map(str, size[1:])) or "-"


def _both(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _padding(s: Setting) -> str:
    left, right, top, bottom = s.pad
    text = str(s.pad)
    if left == right and top == bottom:
        text = _both((top, left))
    text = f"'{s.padding}' = {text}" if isinstance(s.padding, str) else text
    return text if s.padding_mode == "zeros" else f"{text} {s.padding_mode}"
