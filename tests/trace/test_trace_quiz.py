"""The quiz: its answers against torch, its grading, its numbers."""

import re

import pytest
import torch
from torch import nn

from convext.tracing import quiz


def output_rows(rows, kernel, stride=1, padding=0, dilation=1):
    """By torch, of a square input; None where it refuses."""
    layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation, device="meta")
    try:
        return layer(torch.zeros(1, 1, rows, rows, device="meta")).shape[2]
    except RuntimeError:
        return None


def numbers(question):
    return [int(digits) for digits in re.findall(r"\d+", question.text)]


ALL = [*quiz.lesson(), *quiz.generated(100)]


def of_kind(kind):
    found = [question for question in ALL if question.kind == kind]
    assert len(found) >= 10
    return found


def test_the_lesson_has_five_kinds_of_questions():
    assert [question.kind for question in quiz.lesson()] == [
        "size",
        "same",
        "stride",
        "dropped",
        "span",
    ]
    assert [question.answer for question in quiz.lesson()] == [(3, 3), (2,), (2,), (5,), (5,)]


def test_generated_questions_differ_and_depend_on_the_seed_alone():
    assert len({question.text for question in ALL}) == 105
    assert quiz.generated(20, 3) == quiz.generated(20, 3)
    assert quiz.generated(20, 3) != quiz.generated(20, 4)
    assert {question.kind for question in quiz.generated(6)} == {
        "size",
        "same",
        "stride",
        "dropped",
        "span",
        "parameters",
    }
    with pytest.raises(ValueError, match="count must be from 0 to 100"):
        quiz.generated(101)


def test_sizes():
    for question in of_kind("size"):
        H, W, R, S, stride, padding, *dilation = numbers(question)
        layer = nn.Conv2d(1, 1, (R, S), stride, padding, dilation[0] if dilation else 1)
        assert layer(torch.zeros(1, 1, H, W)).shape[2:] == question.answer


def test_padding_that_keeps_the_size():
    for question in of_kind("same"):
        kernel, _, *others = numbers(question)
        dilation = others[0] if len(others) == 2 else 1
        assert output_rows(99, kernel, 1, question.answer[0], dilation) == 99


def test_strides_that_halve():
    for question in of_kind("stride"):
        size, _, kernel, _, padding, half, _ = numbers(question)
        fitting = [
            stride
            for stride in range(1, size + 1)
            if output_rows(size, kernel, stride, padding) == half == size // 2
        ]
        assert (fitting[0],) == question.answer
        assert len(fitting) == 1


def test_dropped_rows():
    for question in of_kind("dropped"):
        size, _, kernel, stride = numbers(question)
        image = torch.zeros(1, 1, size, kernel, requires_grad=True)
        nn.Conv2d(1, 1, kernel, stride)(image).sum().backward()
        read = (image.grad[0, 0].abs().sum(1) > 0).nonzero().flatten().tolist()
        assert question.answer == tuple(range(read[-1] + 1, size))


def test_spans():
    for question in of_kind("span"):
        kernel, _, dilation = numbers(question)
        assert output_rows(question.answer[0], kernel, dilation=dilation) == 1
        assert output_rows(question.answer[0] - 1, kernel, dilation=dilation) is None


def test_parameters():
    for question in of_kind("parameters"):
        _, channels, outputs, kernel, *groups = numbers(question)  # the first is of Conv2d
        layer = nn.Conv2d(channels, outputs, kernel, groups=groups[0] if groups else 1)
        assert question.answer == (sum(p.numel() for p in layer.parameters()),)


def test_explanations_end_in_the_answer():
    for question in ALL:
        for number in question.answer:
            assert str(number) in question.explanation


@pytest.mark.parametrize(
    ("answer", "reply", "verdict"),
    [
        ((3, 3), "3x3", True),
        ((3, 3), " 3 , 3 ", True),
        ((3, 4), "3-4", True),
        ((3,), "-3", False),
        ((3, 3), "3", True),
        ((3, 4), "3", False),
        ((3, 4), "4x3", False),
        ((3, 3), "", None),
        ((3, 3), "x", None),
        ((), "None", True),
        ((), "5", False),
        ((5,), "none", False),
    ],
)
def test_grading(answer, reply, verdict):
    question = quiz.Question("size", "", "", answer, "")
    assert question.check(reply) is verdict
