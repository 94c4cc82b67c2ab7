"""What the page shows of a model, of a layer, and of values that are not finite."""

import torch
from pages import cells
from torch import nn

import convext


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
