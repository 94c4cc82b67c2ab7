"""``convext.compare``: text, HTML, JSON and the command."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
from comparing import CHANGES, compare, image, small_model
from torch import nn

import convext
from convext import _C
from convext._comparison import Timing
from convext.bench import models
from convext.cli import main
from convext.testing import PASSES

# --------------------------------------------------------------------------- what it shows


@pytest.fixture(scope="module")
def comparison():
    torch.manual_seed(0)
    return compare(small_model(), image())


def test_totals(comparison):
    totals, layers = comparison.totals, comparison.layers
    assert (totals["layers"], totals["disagreeing"]) == (4, 0)
    assert totals["workspace_bytes"] == max(layer.workspace_bytes for layer in layers)
    for name in ("forward", "backward"):
        times = [getattr(layer, name) for layer in layers]
        found = totals[name]
        assert found["torch_seconds"] == pytest.approx(sum(t.torch_seconds for t in times))
        assert found["convext_seconds"] == pytest.approx(sum(t.convext_seconds for t in times))
        logs = [math.log(time.gain) for time in times]
        assert math.log(found["geometric_mean_gain"]) == pytest.approx(sum(logs) / 4)
    ratios = {
        (layer.label, name): found.error_over_bound
        for layer in layers
        for name, found in layer.passes.items()
    }
    worst = totals["worst"]
    assert ratios[worst["layer"], worst["pass"]] == max(ratios.values())
    assert worst["error_over_bound"] == max(ratios.values())


def test_text(comparison):
    text = str(comparison)
    assert text.endswith("4 layers, all within the bounds")
    assert "WRONG" not in text
    rows = [line.split() for line in text.splitlines()]
    for layer in comparison.layers:
        times, errors = (row for row in rows if row and row[0] == layer.name)
        assert times[1] == "x".join(map(str, layer.problem.input_size))
        assert times[2] == "x".join(map(str, layer.problem.weight_size))
        assert times[5] == f"{layer.forward.gain:.2f}" + "?" * (not layer.forward.is_certain)
        assert f"{layer.forward.repetitions} repetitions" in str(layer)
        assert errors[-1] == "ok"
        assert errors[-3] == f"{max(found.error for found in layer.passes.values()):.1e}"
        for name, found in layer.passes.items():
            assert [name, found.kernel] in [
                [*line.split()[:1], *line.split()[-1:]] for line in str(layer).splitlines()
            ]
    assert repr(comparison) == "<convext.Comparison: 4 layers, all within the bounds>"


def test_gains_are_those_of_the_times_shown(comparison):
    certain = Timing(5e-3, 2e-3, (4e-3, 6e-3), (1e-3, 3e-3), 40)
    overlapping = Timing(5e-3, 2e-3, (2e-3, 6e-3), (1e-3, 3e-3), 40)
    assert (certain.gain, certain.is_certain) == (2.5, True)
    assert (overlapping.gain, overlapping.is_certain) == (2.5, False)
    layer = dataclasses.replace(comparison.layers[0], forward=overlapping, backward=certain)
    found = dataclasses.replace(comparison, layers=(layer,))
    row = next(line for line in str(found).splitlines() if line.startswith("first "))
    assert row.split()[3:9] == ["5.000", "2.000", "2.50?", "5.000", "2.000", "2.50"]
    assert "medians of 40; gain is torch / convext" in str(found)
    assert "forward: convext 2.000 ms (1.000 to 3.000), torch 5.000 ms (2.000 to 6.0" in str(layer)


def test_a_busy_machine_comes_first(comparison):
    busy = dataclasses.replace(comparison, cores_of_others=1.5)
    warning = "1.50 cores were busy with other processes: these times and gains are noise"
    assert str(busy).splitlines()[0] == warning
    assert busy._repr_html_().startswith(f"<p><strong>{warning}</strong></p>")
    assert busy.to_dict()["cores_busy_with_others"] == 1.5
    for quiet in (None, 0.05):
        found = dataclasses.replace(comparison, cores_of_others=quiet)
        assert "busy" not in str(found) + found._repr_html_()


def test_a_page_of_it(comparison, tmp_path):
    comparison.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert comparison._repr_html_() in page
    assert "<title>convext and torch: 4 layers, all within the bounds</title>" in page
    with pytest.raises(OSError, match="no"):
        comparison.save_html(tmp_path / "no" / "page.html")


def test_html_escapes_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a&b", nn.Conv2d(3, 1, 1))
            self.add_module("<b>", nn.Conv2d(3, 1, 1))

        def forward(self, x):
            return self.get_submodule("a&b")(x)

    found = compare(Named(), image())._repr_html_()
    assert found.count("<table>") == found.count("</table>") == 2
    assert '<td style="text-align:left">a&amp;b</td>' in found
    assert "not compared: &lt;b&gt;: the model does not call it" in found


def test_to_dict_is_json(comparison):
    found = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert found["ok"] is True
    assert found["versions"] == {"convext": convext.__version__, "torch": torch.__version__}
    assert (found["threads"], found["isa"]) == (1, _C.active_isa())
    assert found["totals"] == comparison.totals
    for kept, layer in zip(found["layers"], comparison.layers, strict=True):
        assert kept["name"] == layer.name
        assert kept["input"] == list(layer.problem.input_size)
        forward = layer.passes["forward"]
        for name in ("ok", "error", "error_over_bound", "torch_error", "workspace_bytes"):
            assert kept["passes"]["forward"][name] == getattr(forward, name)
        assert kept["passes"]["forward"]["plan"]["kernel"] == forward.plan.kernel
        assert kept["passes"]["forward"]["plan"]["refused"] == list(map(list, forward.plan.refused))
        assert kept["backward"] == json.loads(json.dumps(layer.backward.to_dict()))


def test_it_needs_no_extras():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('rich', 'sklearn', 'transformers')))\n"
        "import torch, convext\n"
        "model = torch.nn.Conv2d(3, 4, 3)\n"
        "print(convext.compare(model, torch.randn(1, 3, 8, 8), seconds=1e-6))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.endswith("1 layer, all within the bounds\n"), result.stderr


# --------------------------------------------------------------------------- the command


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the current directory with functions that return a model and its input."""
    (tmp_path / "compared_model.py").write_text(
        "import torch\n"
        "def pair():\n"
        "    return torch.nn.Conv2d(8, 6, 3), (torch.randn(1, 8, 6, 6),)\n"
        "def alone():\n"
        "    return torch.nn.Conv2d(8, 6, 3)\n"
        "def wrong():\n"
        "    return torch.nn.ReLU(), torch.randn(1)\n"
        "def raising():\n"
        "    raise ZeroDivisionError('so it is')\n"
        "def mismatched():\n"
        "    return torch.nn.Conv2d(8, 6, 3), torch.randn(1, 4, 6, 6)\n"
    )
    (tmp_path / "broken_module.py").write_text("absent\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("compared_model", None)


def command(*arguments):
    return main(["compare", "--seconds", "1e-6", *arguments])


def test_command(module, capsys, spoil):
    path = list(sys.path)
    assert command("compared_model:pair", "--json", "found.json", "--html", "page.html") == 0
    assert (module / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out.endswith("1 layer, all within the bounds\n")
    found = json.loads((module / "found.json").read_text())
    assert list(found["layers"][0]["passes"]) == list(PASSES)
    assert command("compared_model:pair", "--forward") == 0
    assert "forward only" in capsys.readouterr().out
    spoil("weight_grad", CHANGES["sign"])
    assert command("compared_model:pair") == 1
    assert capsys.readouterr().out.endswith("1 layer, 1 WRONG\n")
    assert sys.path == path


def test_command_with_a_known_model(monkeypatch, capsys):
    monkeypatch.setitem(models.MODELS, "tiny", lambda: nn.Conv2d(3, 2, 5, stride=16))
    options = ["--batch", "2", "--dtype", "bfloat16", "--layout", "channels_last"]
    assert command("tiny", *options) == 0
    assert "2x3x224x224" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg"], "model must be one of resnet50, mobilenet_v2, convnext_tiny, or MODULE:FUNCTION"),
        (["no_such_module:pair"], "model 'no_such_module:pair': No module named 'no_such_module'"),
        (
            ["compared_model:absent"],
            "model 'compared_model:absent': compared_model has no function",
        ),
        (["compared_model:alone"], "it must return a model and its example input"),
        (["compared_model:wrong"], "model must have at least one torch.nn.Conv2d, but has none"),
        (
            ["compared_model:raising"],
            "model 'compared_model:raising' raises ZeroDivisionError: so it is (line 9 of",
        ),
        (["compared_model:mismatched"], "raises RuntimeError: Given groups=1, weight of size"),
        (
            ["compared_model.py:pair"],
            "MODULE is a name as `import` takes it, not a file: compared_model:pair",
        ),
        (["broken_module:pair"], "broken_module raises NameError: name 'absent' is not defined"),
        (["compared_model:pair", "--batch", "2"], "--batch, --dtype and --layout are for models"),
        (["compared_model:pair", "--seconds", "-1"], "seconds must be positive and finite"),
        (["compared_model:pair", "--json", "no/such/folder"], "No such file or directory"),
        (["resnet50", "--batch", "-1"], "--batch must be at least 1, but got -1"),
    ],
)
def test_command_that_cannot_run(module, capsys, arguments, message):
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("convext compare: ")
    assert message in error
    assert error.count("\n") == 1
