"""Questions about kernel size, stride, padding and dilation, with answers and formulas."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        kind: which rule it is about; see :data:`KINDS`.
        text: the question.
        hint: what an answer looks like.
        answer: the integers of the right answer; none where the answer is "none".
        explanation: the formula with the question's numbers.
    """

    kind: str
    text: str
    hint: str
    answer: tuple[int, ...]
    explanation: str

    def check(self, reply: str) -> bool | None:
        """Whether a reply is right; None if it has neither a number nor the word "none".

        Every integer in the reply counts, in order, whatever stands between, also a minus; one
        integer answers for both sides of a square.
        """
        numbers = tuple(int(digits) for digits in re.findall(r"(?<!\d)-?\d+", reply))
        if not numbers and "none" not in reply.lower():
            return None
        square = len(self.answer) == 2 and self.kind == "size" and len(set(self.answer)) == 1
        return numbers == self.answer or (square and numbers == self.answer[:1])

    def to_dict(self) -> dict[str, Any]:
        """All attributes, fit for JSON."""
        return dataclasses.asdict(self) | {"answer": list(self.answer)}


def size_question(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int = 1,
) -> Question:
    """How large is the output?"""
    names = ("P", "Q")
    outputs, formulas = [], []
    for name, n, k in zip(names, size, kernel, strict=True):
        output = (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        outputs.append(output)
        formulas.append(
            f"{name} = floor(({n} + 2 * {padding} - {dilation} * ({k} - 1) - 1) / {stride}) + 1 "
            f"= {output}"
        )
    text = f"The input has {_by(size)} pixels, the kernel {_by(kernel)}; stride {stride}, padding "
    text += f"{padding}" + (f", dilation {dilation}" if dilation > 1 else "")
    return Question(
        "size",
        text + ". How large is the output?",
        "height x width, for instance 4x4",
        tuple(outputs),
        "; ".join(formulas) + ".",
    )


def same_question(kernel: int, dilation: int = 1) -> Question:
    """What padding keeps the size?"""
    padding = dilation * (kernel - 1) // 2
    dilated = f" with dilation {dilation}" if dilation > 1 else ""
    return Question(
        "same",
        f"A {kernel}x{kernel} kernel{dilated} moves with stride 1. What padding, the same on all "
        "sides, gives an output as large as the input?",
        "one integer",
        (padding,),
        "2 * padding must make up for what the kernel takes, dilation * (kernel - 1): padding = "
        f"{dilation} * ({kernel} - 1) / 2 = {padding}. padding='same' finds it by itself.",
    )


def stride_question(size: int, kernel: int, padding: int) -> Question | None:
    """What stride halves the size? None where no stride does, or more than one."""
    room = size + 2 * padding - kernel
    fitting = [stride for stride in range(1, size + 1) if room // stride + 1 == size // 2]
    if size % 2 or room < 0 or len(fitting) != 1:
        return None
    return Question(
        "stride",
        f"The input has {size}x{size} pixels, the kernel {kernel}x{kernel}, padding is {padding}. "
        f"Which stride gives {size // 2}x{size // 2}, half the size?",
        "one integer",
        (fitting[0],),
        f"floor(({size} + 2 * {padding} - ({kernel} - 1) - 1) / {fitting[0]}) + 1 = "
        f"floor({room} / {fitting[0]}) + 1 = {size // 2}.",
    )


def dropped_question(size: int, kernel: int, stride: int) -> Question:
    """Which rows does floor drop?"""
    output = (size - kernel) // stride + 1
    end = (output - 1) * stride + kernel
    rows = tuple(range(end, size))
    reach = f"The last of {output} windows starts at row ({output} - 1) * {stride} = "
    reach += f"{(output - 1) * stride} and ends at row {end - 1}"
    listed = ", ".join(map(str, rows))
    which = f"rows {listed} are" if len(rows) > 1 else f"row {listed} is"
    left = f"; {which} dropped by the floor." if rows else ", the last row: nothing is dropped."
    return Question(
        "dropped",
        f"{size} input rows, counted from 0, a kernel of {kernel} rows, stride {stride}, no "
        "padding. Which rows lie beyond the last window?",
        "row numbers, or none",
        rows,
        reach + left,
    )


def span_question(kernel: int, dilation: int) -> Question:
    """How many rows does a dilated kernel span?"""
    span = dilation * (kernel - 1) + 1
    return Question(
        "span",
        f"A {kernel}x{kernel} kernel has dilation {dilation}. How many rows does it span?",
        "one integer",
        (span,),
        f"dilation * (kernel - 1) + 1 = {dilation} * ({kernel} - 1) + 1 = {span}; the number of "
        f"weights stays {kernel} * {kernel} = {kernel * kernel}.",
    )


def parameters_question(channels: int, outputs: int, kernel: int, groups: int) -> Question:
    """How many parameters does a layer have?"""
    weights = outputs * (channels // groups) * kernel * kernel
    return Question(
        "parameters",
        f"nn.Conv2d({channels}, {outputs}, {kernel}"
        + (f", groups={groups}" if groups > 1 else "")
        + ") has a bias. How many parameters?",
        "one integer",
        (weights + outputs,),
        f"out * (in / groups) * R * S + out = {outputs} * ({channels} / {groups}) * {kernel} * "
        f"{kernel} + {outputs} = {weights + outputs}.",
    )


def lesson() -> list[Question]:
    """The lesson's five questions."""
    halving = stride_question(8, 3, 1)
    assert halving is not None
    return [
        size_question((5, 5), (3, 3), 2, 1),
        same_question(5),
        halving,
        dropped_question(6, 3, 2),
        span_question(3, 2),
    ]


def generated(count: int, seed: int = 0) -> list[Question]:
    """Questions of all kinds in turn, no two alike; the seed decides their numbers.

    Args:
        count: how many, 1 to 100.

    Raises:
        ValueError: ``count`` is not in that range.
    """
    if not 0 <= count <= 100:
        raise ValueError(f"count must be from 0 to 100, but got {count}")
    draw = random.Random(seed)
    questions: list[Question] = []
    seen = {question.text for question in lesson()}
    while len(questions) < count:
        question = KINDS[len(questions) % len(KINDS)](draw)
        if question is not None and question.text not in seen:
            seen.add(question.text)
            questions.append(question)
    return questions


def _draw_size(draw: random.Random) -> Question:
    dilation = draw.choice((1, 1, 2, 3))
    kernel = (draw.randint(1, 5), draw.randint(1, 5))
    size = tuple(dilation * (k - 1) + draw.randint(1, 20) for k in kernel)
    return size_question(size, kernel, draw.randint(1, 4), draw.randint(0, 3), dilation)  # type: ignore[arg-type]


def _draw_parameters(draw: random.Random) -> Question:
    groups = draw.choice((1, 1, 2, 4))
    channels, outputs = groups * draw.randint(1, 16), groups * draw.randint(1, 16)
    return parameters_question(channels, outputs, draw.choice((1, 3, 5, 7)), groups)


KINDS: tuple[Callable[[random.Random], Question | None], ...] = (
    _draw_size,
    lambda draw: same_question(draw.choice(range(3, 16, 2)), draw.randint(1, 4)),
    lambda draw: stride_question(2 * draw.randint(3, 32), draw.randint(2, 7), draw.randint(0, 3)),
    lambda draw: dropped_question(draw.randint(6, 30), draw.randint(2, 6), draw.randint(2, 5)),
    lambda draw: span_question(draw.randint(2, 9), draw.randint(2, 6)),
    _draw_parameters,
)
"""What draws a question of each kind; None where the numbers do not suit."""


def _by(sizes: tuple[int, int]) -> str:
    return "x".join(map(str, sizes))
