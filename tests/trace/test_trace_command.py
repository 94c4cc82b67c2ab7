"""``convext trace`` in a terminal."""

import io
import re

import pytest
import torch

import convext
from convext.cli import digits, main
from convext.cli import trace as command
from convext.cli._console import make_console
from convext.cli._show import print_prediction
from convext.tracing import ConvTrace, quiz, text


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def test_the_lesson(capsys):
    assert main(["trace"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "padding 1 -> output 1x3x3" in out
    assert len(re.findall(r"^Window \d of 9", out, re.M)) == 3
    assert (
        "6 more windows of this channel: --steps 9 in a terminal, to_text(9) in Python shows all"
        in out
    )
    assert "Check: 9 sums of products equal what convext.conv2d returned." in out


def test_options_make_the_setting(capsys):
    arguments = (
        "--in 9,8 --channels 2,4 --kernel 3,2 --stride 2,1 --padding 1,0,2,1 --dilation 2,1 "
        "--groups 2 --padding-mode replicate --steps 100"
    )
    assert main(["trace", *arguments.split()]) == 0
    out = capsys.readouterr().out
    assert (
        "input 2x9x8, kernel 3x2, stride 2x1, padding (1, 0, 2, 1) replicate, dilation 2x1, "
        "groups 2 -> output 4x4x8" in out
    )
    assert len(re.findall(r"^Window \d+ of 32", out, re.M)) == 32
    assert "more windows" not in out
    assert main(["trace", "--padding", "same", "--stride", "1", "--kernel", "2", "--steps=0"]) == 0
    out = capsys.readouterr().out
    assert "padding 'same' = (0, 1, 0, 1) -> output 1x5x5" in out
    assert "Window" not in out


@pytest.mark.parametrize(
    ("arguments", "layer", "size"),
    [
        (["--in=2", "--padding=0"], {"padding": 0, "stride": 2}, (2, 2)),
        (["--stride", "0"], {"padding": 1, "stride": 0}, (5, 5)),
        (["--padding=-1"], {"padding": -1, "stride": 2}, (5, 5)),
        (["--dilation", "0"], {"padding": 1, "stride": 2, "dilation": 0}, (5, 5)),
        (["--groups", "2"], {"padding": 1, "stride": 2, "groups": 2}, (5, 5)),
        (["--padding", "same"], {"padding": "same", "stride": 2}, (5, 5)),
        (
            ["--padding", "5", "--padding-mode", "reflect"],
            {"padding": 5, "stride": 2, "padding_mode": "reflect"},
            (5, 5),
        ),
        (
            ["--padding", "6", "--padding-mode", "circular"],
            {"padding": 6, "stride": 2, "padding_mode": "circular"},
            (5, 5),
        ),
    ],
)
def test_impossible_settings_end_in_torchs_words(arguments, layer, size, capsys):
    with pytest.raises((RuntimeError, ValueError)) as refusal:
        torch.nn.Conv2d(1, 1, 3, **layer)(torch.zeros(1, 1, *size))
    assert main(["trace", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"convext: torch refuses this setting: {refusal.value}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "3,x"], "argument --kernel: must be integers with commas between"),
        (["--stride", "1,2,3"], "argument --stride: must be one or two integers"),
        (["--padding", "1,2,3"], "argument --padding: must be one, two or four integers"),
        (["--steps=-1"], "argument --steps: must be an integer from 0 on"),
        (["--train", "--quiz"], "not allowed with argument"),
        (["--padding-mode", "mirror"], "invalid choice: 'mirror'"),
    ],
)
def test_wrong_arguments_of_trace(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["trace", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_a_wrong_kernel_ends_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(ConvTrace, "check", lambda self: (False, "the sums are wrong"))
    assert main(["trace"]) == 1
    assert "Check: the sums are wrong." in capsys.readouterr().out


def test_a_prediction(capsys):
    assert main(["trace", "--predict", "--epochs", "0"]) == 0
    out = capsys.readouterr().out
    assert "untrained" in out
    assert re.search(r"ConvExt2d sees an? \d \([\d.]+%\): (right|wrong)$", out, re.M)
    assert len(re.findall(r"^ +\d \S* +[\d.]+%", out, re.M)) in (3, 4)
    assert len(re.findall(r"% the label$", out, re.M)) == 1
    assert re.search(r"strided +16x8x8 +10x10 +3x3 stride 2 +32x4x4 +fprop_\w+", out)
    assert re.search(r"depthwise +ConvExt2d +32x4x4 +-?[\d.e-]+ +[\d.e-]+ ", out)
    assert re.search(r"head +Linear +10 +", out)


@pytest.mark.parametrize(("guess", "said"), [(8, "an 8"), (2, "a 2")])
def test_a_prediction_is_marked(guess, said, capsys):
    shares = torch.full((1, 10), 0.01)
    shares[0, guess], shares[0, 3], shares[0, 5] = 0.5, 0.3, 0.13
    print_prediction(
        make_console(), {"It": lambda image: shares.log()}, torch.eye(8)[None, None], 2
    )
    out = capsys.readouterr().out
    assert f"It sees {said} (" in out
    assert ("): right\n" in out) == (guess == 2)
    rows = [line.split() for line in out.splitlines() if line.endswith("%") or "label" in line][1:]
    assert [row[0] for row in rows] == [str(guess), "3", "5", *(["2"] if guess != 2 else [])]


def test_a_prediction_without_options_is_right(capsys):
    assert main(["trace", "--predict"]) == 0
    assert re.search(r"sees an? \d \(99[\d.]+%\): right$", capsys.readouterr().out, re.M)


def test_a_layer_of_a_prediction_step_by_step(tmp_path, capsys):
    path = tmp_path / "layer.html"
    arguments = ["--predict", "--epochs", "0", "--layer", "depthwise", "--steps", "1", "--html"]
    assert main(["trace", *arguments, str(path)]) == 0
    out = capsys.readouterr().out
    assert "The layer 'depthwise' in this prediction" in out
    assert "input 32x4x4, kernel 3x3, stride 1, padding 1 reflect, groups 32 -> output 32" in out
    assert len(re.findall(r"^Window 1 of 16: output", out, re.M)) == 1
    assert "Check: 512 sums of products are, but for rounding, what" in out
    assert '"groups":8' in path.read_text(encoding="utf-8")


def test_layers_to_choose_from_are_the_models():
    model = digits.make_model(0, torch.float32)
    names = [name for name, layer in model.named_children() if hasattr(layer, "stride")]
    assert names == list(command.LAYERS)


def test_a_forced_kernel_that_cannot_run(capsys):
    with convext.force_plan("fprop=winograd4"):
        for arguments in ([], ["--predict", "--epochs", "0"]):
            assert main(["trace", *arguments]) == 2
            assert "no kernel can run fprop" in capsys.readouterr().err


def test_a_training(monkeypatch, capsys):
    data = digits.load(0)
    few = digits.Digits(
        data.images[:96], data.labels[:96], data.test_images[:50], data.test_labels[:50]
    )
    monkeypatch.setattr(digits, "load", lambda seed: few)
    assert main(["trace", "--train", "--epochs", "2"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^ +(\d) +[\d.]+ \S* +[\d.]+%", out, re.M) == ["1", "2"]
    assert re.search(r"^Time: [\d.]+ s$", out, re.M)
    assert "difference" not in out


def test_training_tells_of_every_epoch():
    data = digits.load(0)
    few = digits.Digits(
        data.images[:64], data.labels[:64], data.test_images[:20], data.test_labels[:20]
    )
    heard = []
    model = digits.make_model(0, torch.float32)
    training = digits.train(model, few, 3, 0, lambda so_far: heard.append(len(so_far.losses)))
    assert heard == [1, 2, 3]
    assert training.seconds > 0


def ask(monkeypatch, capsys, replies, *arguments):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(replies) + "\n"))
    assert main(["trace", "--quiz", *arguments]) == 0
    return capsys.readouterr().out


def test_a_quiz_with_right_answers(monkeypatch, capsys):
    questions = [*quiz.lesson(), *quiz.generated(6, seed=2)]
    replies = [" ".join(map(str, question.answer)) or "none" for question in questions]
    out = ask(monkeypatch, capsys, replies, "--questions", "6", "--seed", "2")
    assert out.count("Right.") == 11
    assert "Not quite" not in out
    assert out.endswith("11 of 11 right.\n")


def test_a_quiz_with_wrong_answers_explains(monkeypatch, capsys):
    out = ask(monkeypatch, capsys, ["what", "9", "2", "7"], "--questions", "0")
    words = " ".join(out.split())
    assert "Please answer with height x width, for instance 4x4." in words
    assert out.count("  height x width") == 2  # asked again after a reply without a number
    for question in (quiz.lesson()[0], quiz.lesson()[2]):
        assert f"Not quite. {question.explanation}" in words
    assert f"Right. {quiz.lesson()[1].explanation}" in words
    assert out.endswith("1 of 3 right.\n")


def test_a_quiz_that_ends_at_once(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["trace", "--quiz"]) == 0
    assert capsys.readouterr().out.endswith("\nNothing was answered.\n")


def test_too_many_questions(capsys):
    assert main(["trace", "--quiz", "--questions", "101"]) == 2
    assert "--questions: must be from 0 to 100" in capsys.readouterr().err


def test_a_page(tmp_path, capsys):
    path = tmp_path / "trace.html"
    assert main(["trace", "--in", "6", "--html", str(path)]) == 0
    assert f"Wrote {path}" in capsys.readouterr().out.replace("\n", " ")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_is_noticed_first(tmp_path, capsys):
    new = tmp_path / "new.html"
    missing, beyond = tmp_path / "no" / "trace.html", ["--kernel", "12", "--in", "20"]
    for arguments, message in (
        (["--html", str(missing)], "No such file or directory"),
        (["--train", "--html", str(missing)], "No such file or directory"),
        (["--predict", "--html", str(tmp_path)], "Is a directory"),
        ([*beyond, "--html", str(new)], "the page shows kernels up to 11x11"),
    ):
        assert main(["trace", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert message in printed.err
    assert not new.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--predict --stride 1", "--stride: not allowed with --predict, --train or --quiz"),
        ("--quiz --padding-mode reflect", "--padding-mode: not allowed with --predict"),
        ("--train --in 6", "--in: not allowed with --predict"),
        ("--layer first", "--layer: not allowed without --predict or --train"),
        ("--epochs 3", "--epochs: not allowed without --predict or --train"),
        ("--predict --steps 4", "--steps: not allowed without a convolution to step through"),
        ("--questions 3", "--questions: not allowed without --quiz"),
        ("--quiz --html page.html", "--html: not allowed with --quiz"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, message, capsys):
    assert main(["trace", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"convext: argument {message}" in printed.err


def test_defaults_are_the_lesson(capsys):
    assert main(["trace", "--steps", str(text.STEPS)]) == 0
    assert capsys.readouterr().out.startswith("input 1x5x5, kernel 3x3, stride 2, padding 1 ->")
