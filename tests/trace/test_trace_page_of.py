"""What the page shows of a model, of a layer, and of values that are not finite."""

import pytest
import torch
from pages import cells
from torch import nn

import convext
from convext.cli import digits, main
from convext.tracing.model import LearningCurve, Prediction


def test_the_page_of_a_model(open_page, tmp_path, screenshots):
    model = nn.Sequential(
        convext.ConvExt2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 12, stride=12),
    )
    path = tmp_path / "model.html"
    trace = convext.trace(model, torch.randn(1, 3, 24, 24))
    trace.save_html(path)
    page = open_page(path, viewport={"width": 1280, "height": 900})
    assert page.get_attribute("#tab-model", "aria-selected") == "true"
    assert not page.is_visible("#prediction")
    assert not page.is_visible("#training")
    table = page.inner_text("#model-layers")
    for layer in trace.content.layers:
        assert layer.type in table
    assert trace.content.layers[0].plans["forward"]["kernel"] in table
    assert table.count("too large") == 1
    page.screenshot(path=screenshots / "model.png", full_page=True)
    page.click("[aria-label='Show 0']")
    assert page.is_visible("#panel-forward")
    assert "3x16x16 input, padded 18x18, 3x3 kernel" in page.inner_text("#summary")


def test_the_page_of_a_layer_has_its_values(open_page, tmp_path):
    layer = convext.ConvExt2d(2, 3, (2, 3), padding=(1, 0, 0, 2), padding_mode="reflect")
    path = tmp_path / "layer.html"
    image = torch.randn(1, 2, 6, 5)
    convext.trace(layer, image).save_html(path)
    page = open_page(path)
    assert page.evaluate("APP.output") == layer(image)[0].double().tolist()
    computed = torch.tensor(page.evaluate("forward(APP.setting, APP.operands)"))
    torch.testing.assert_close(computed, layer(image)[0])
    assert ", bias " in page.inner_text("#sum")


def test_values_that_are_not_finite_are_shown(open_page, tmp_path):
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    image[0, 0, 0, 0], image[0, 0, 3, 3], image[0, 0, 0, 3] = (
        float(name) for name in ("nan", "inf", "-inf")
    )
    layer = convext.ConvExt2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    trace = convext.trace(layer, image)
    trace.save_html(tmp_path / "layer.html")
    page = open_page(tmp_path / "layer.html")
    shown = cells(page, "output")
    assert (shown[0][0], shown[0][3], shown[3][3]) == ("NaN", "-Infinity", "Infinity")
    assert shown[1] == ["4", "5", "6", "7"]
    assert "nan" in str(trace)
    model = nn.Sequential(layer, nn.ReLU())
    convext.trace(model, image).save_html(tmp_path / "model.html")
    page = open_page(tmp_path / "model.html")
    assert "NaN" in page.inner_text("#model-layers")


@pytest.mark.parametrize("mode", ["--predict", "--train"])
def test_the_page_of_a_prediction_and_its_training(mode, open_page, tmp_path, screenshots):
    path = tmp_path / "model.html"
    assert main(["trace", mode, "--epochs", "2", "--html", str(path)]) == 0
    data = digits.load(0)
    image, label = data.test_images[0, 0], int(data.test_labels[0])
    page = open_page(path, viewport={"width": 1200, "height": 900})
    assert f"A test image labelled {label}." in page.inner_text("#prediction-text")
    shades = page.eval_on_selector_all(
        "#prediction-image rect", "all => all.map(r => Number(r.getAttribute('fill-opacity')))"
    )
    shown = torch.tensor(shades, dtype=torch.float64).reshape(8, 8)
    torch.testing.assert_close(shown, (image - image.min()) / (image.max() - image.min()))
    rows = cells(page, "prediction-shares")
    shares = [float(row[1].removesuffix(" %")) for row in rows]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(100, abs=1e-2)
    guess = shares.index(max(shares))
    assert rows[label][2] == "the label"
    assert page.inner_text("#prediction-text span") == ("right" if guess == label else "wrong")
    widths = page.eval_on_selector_all(".share div", "all => all.map(d => d.offsetWidth)")
    assert max(widths) == widths[guess] > 0
    training = page.evaluate("DATA.model.training")
    assert len(training["steps"]) == 2 * 45  # batches of 32 from 1437 images
    assert cells(page, "training-table") == [
        [f"{loss:.4f}", f"{100 * accuracy:.2f} %"]
        for loss, accuracy in zip(training["losses"], training["accuracies"], strict=True)
    ]
    points = page.eval_on_selector_all("polyline", "all => all.map(line => line.points.length)")
    assert points == [90, 2]
    over = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.id)"
    assert page.eval_on_selector_all("#panel-model .scroll", over) == []
    page.screenshot(path=screenshots / f"model{mode[1:]}.png", full_page=True)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_of_a_wrong_prediction_and_a_training_that_failed(open_page, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 10, 2), nn.Flatten())
    nn.init.zeros_(model[0].weight)
    model[0].bias.data = torch.arange(10.0)
    image = torch.arange(4.0).reshape(1, 1, 2, 2)
    trace = convext.trace(model, image)
    trace.content.prediction = Prediction.run(model, image, 8)
    trace.content.training = LearningCurve([2.0, float("nan")], [float("nan")], [0.1])
    trace.save_html(tmp_path / "model.html")
    page = open_page(tmp_path / "model.html")
    assert page.inner_text("#prediction-text").endswith("sees a 9: wrong.")
    rows = cells(page, "prediction-shares")
    assert [row[2] for row in rows[8:]] == ["the label", "the guess"]
    assert cells(page, "training-table") == [["NaN", "10.00 %"]]
