"""The page of ``convext trace --html``, in headless Chromium: from a file, without a network."""

import contextlib
import io
import random
import shlex
import shutil

import pytest
import torch
import torch.nn.functional as F
from browsers import find_browser
from pages import (
    TABS,
    cells,
    fill,
    possible_settings,
    random_setting,
    status,
    write,
)
from playwright.sync_api import expect

import convext
from convext.cli import main
from convext.tracing import LESSON, ConvTrace, Setting, html, quiz
from convext.tracing.setting import small_integers


def test_no_browser_is_a_failure(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(pytest.fail.Exception, match="no browser was found"):
        find_browser()


def test_the_lesson_is_shown(page):
    trace = ConvTrace.run(LESSON)
    assert "padded 7x7" in page.inner_text("#summary")
    for name, formula in LESSON.formula.items():
        assert f"{name} = {formula}" in page.inner_text("#formulas")
    assert cells(page, "padded") == [[f"{v:.0f}" for v in row] for row in trace.padded[0].tolist()]
    assert cells(page, "output") == [[f"{v:.0f}" for v in row] for row in trace.output[0].tolist()]
    assert page.inner_text("#values-from") == "Outputs: from convext.conv2d."
    assert page.eval_on_selector_all("#padded td.padding", "cells => cells.length") == 24
    page.click("#tab-kernel")
    for plan in trace.plans.values():
        assert plan["kernel"] in page.inner_text("#plan")
        assert plan["reason"] in page.inner_text("#plan")
    for name, plan in convext.explain(torch.nn.Conv2d(1, 1, 3, 2, 1), (1, 1, 5, 5)).passes.items():
        row = page.inner_text(f"#sources tr:has(th:text-is('{name}'))")
        assert [word for word in row.split() if word.startswith(("csrc/", "docs/"))] == [
            *(place.split()[0] for place in plan.sources),
            plan.chapter,
        ]
    assert len(cells(page, "gemm")) == 9


def test_values_are_torchs(page):
    """The outputs and both gradients of 50 settings, as the page computes and shows them."""
    draw = random.Random(1)
    for number, setting in enumerate(possible_settings(50)):
        image, weight = (t.double().requires_grad_() for t in small_integers(setting))
        mode = "constant" if setting.padding_mode == "zeros" else setting.padding_mode
        padded = F.pad(image, setting.pad, mode)
        output = F.conv2d(padded, weight, None, setting.stride, 0, setting.dilation, setting.groups)
        output.sum().backward()
        K, channels, R, S = setting.weight_size
        pixels = [[draw.randrange(n) for n in (setting.C, setting.H, setting.W)] for _ in range(4)]
        taps = [[draw.randrange(n) for n in (K, channels, R, S)] for _ in range(4)]
        seen = page.evaluate(
            """([setting, pixels, taps]) => (APP.controls.write(setting), {
                output: APP.output,
                padded: APP.padded,
                input_grad: pixels.map(at => inputGradient(APP.setting, APP.operands, ...at)),
                weight_grad: taps.map(at => weightGradient(APP.setting, APP.padded, ...at)),
                formulas: formulas(APP.setting),
                dropped: dropped(APP.setting),
            })""",
            [html.setting_data(setting), pixels, taps],
        )
        assert seen["output"] == output[0].tolist(), setting
        assert seen["padded"] == padded[0].tolist(), setting
        assert seen["input_grad"] == [image.grad[0][tuple(at)].item() for at in pixels], setting
        assert seen["weight_grad"] == [weight.grad[tuple(at)].item() for at in taps], setting
        assert seen["formulas"] == [f"{n} = {f}" for n, f in setting.formula.items()]
        assert seen["dropped"] == [list(rows) for rows in setting.dropped]
        if number % 5 == 0:
            shown = [[f"{v + 0:.0f}" for v in row] for row in output[0, 0].tolist()]
            assert cells(page, "output") == shown


def test_refusals_are_torchs(page):
    """Of 400 settings, possible ones among them; and of each kind of error by itself."""
    draw = random.Random(2)
    settings = [
        Setting(H=2, W=2, padding=(0, 0)),
        Setting(stride=(0, 1)),
        Setting(padding=(-1, 0)),
        Setting(padding=(-1, 0), stride=(0, 0)),
        Setting(groups=0),
        Setting(groups=2),
        Setting(C=2, K=3, groups=2),
        Setting(padding=(5, 0), padding_mode="reflect"),
        Setting(padding=(0, 5), padding_mode="reflect"),
        Setting(padding=(6, 0), padding_mode="circular"),
        Setting(padding="same"),
        Setting(padding="same", stride=(1, 1), R=11, padding_mode="reflect"),
        Setting(padding=(-1, 0), padding_mode="reflect"),
        Setting(padding=(0, -1, 0, 0)),
    ]
    refused = [setting.refusal() for setting in settings]
    assert None not in refused
    for _ in range(400):
        setting = random_setting(draw)
        changes = (
            {"stride": (draw.randint(0, 2), draw.randint(0, 2))} if draw.random() < 0.2 else {}
        )
        if draw.random() < 0.2:
            changes["groups"] = draw.randint(0, 4)
        if draw.random() < 0.4:
            changes["padding"] = (draw.randint(0, 8), draw.randint(0, 8))
        settings.append(Setting(**{**vars(setting), **changes}))
        refused.append(settings[-1].refusal())
    data = [html.setting_data(setting) for setting in settings]
    said = page.evaluate("all => all.map(refusal)", data)
    for setting, torchs, pages in zip(settings, refused, said, strict=True):
        told = pages and f"{pages['by']} refuses this setting: {pages['text']}"
        assert told == torchs, setting
    kinds = {text and text.split(":")[1][:20] for text in refused}
    assert None in kinds
    assert len(kinds) >= 9


def test_an_impossible_setting_hides_the_views_and_comes_back(page):
    page.fill("#stride-h", "0")
    assert (
        page.inner_text("#error")
        == "torch refuses this setting: non-positive stride is not supported"
    )
    assert page.inner_text("#summary") == "This setting is impossible."
    assert not page.is_visible("#panel-forward")
    tabs, error = (page.locator(name).bounding_box() for name in ("#tabs", "#error"))
    assert error["y"] >= tabs["y"] + tabs["height"]  # where the panel was
    page.click("#tab-quiz")
    assert page.is_visible("#panel-quiz")
    page.click("#tab-code")
    assert not page.is_visible("#panel-code")
    page.fill("#stride-h", "")
    assert "Vertical stride must be an integer from 0 to 8" in page.inner_text("#error")
    assert page.get_attribute("#stride-h", "aria-invalid") == "true"
    page.click("#reset")
    assert not page.is_visible("#error")
    assert page.is_visible("#panel-code")
    assert page.input_value("#stride-h") == "2"


def test_controls_change_the_setting(page):
    fill(page, height=7, width=9, kernel_height=2, kernel_width=4, stride_h=1, dilation_w=2)
    page.select_option("#padding-mode", "circular")
    assert "7x9 input, padded 9x11, 2x4 kernel" in page.inner_text("#summary")
    assert not page.is_visible("#pad-right")
    fill(page, pad_top=2)
    assert page.evaluate("APP.setting.padding") == [1, 1, 2, 2]
    page.select_option("#padding-kind", "four-sided")
    assert page.is_visible("#pad-right")
    fill(page, pad_right=3, pad_bottom=0)
    assert page.evaluate("APP.setting.padding") == [1, 3, 2, 0]
    page.select_option("#padding-kind", "symmetric")
    assert page.evaluate("APP.setting.padding") == [1, 1, 2, 2]
    fill(page, stride_w=1)
    page.select_option("#padding-kind", "same")
    assert not page.is_visible("#pad-top")
    assert page.evaluate("APP.setting.padding") == [3, 3, 0, 1]
    assert page.evaluate("outputSize(APP.setting)") == [7, 9]
    fill(page, in_channels=4, out_channels=6, groups=2)
    page.select_option("#shown-k", "5")
    assert page.inner_text("#shown-c").split() == ["2", "3"]
    page.select_option("#shown-c", "1")
    assert "channel 3" in page.inner_text("#padded caption")
    assert page.evaluate("APP.output.length") == 6


def test_buttons_slider_and_play_move_the_kernel(page):
    page.click("#next")
    assert status(page).startswith("Window 2 of 9: output[0, 0, 1]")
    assert (
        page.eval_on_selector_all("#padded td.window", "c => c.map(x => x.cellIndex - 1)")
        == [2, 3, 4] * 3
    )
    page.click("#previous")
    page.click("#previous")
    assert status(page).startswith("Window 1 of 9")
    page.fill("#position", "8")
    assert status(page).startswith("Window 9 of 9: output[0, 2, 2]")
    page.click("#first")
    page.click("#play")
    assert page.get_attribute("#play", "aria-pressed") == "true"
    expect(page.locator("#window-text")).to_contain_text("Window 3", timeout=60_000)
    page.click("#play")
    at = status(page)
    page.wait_for_timeout(900)
    assert status(page) == at
    page.click("#output tbody tr:nth-child(2) td:nth-child(3) button")
    assert status(page).startswith("Window 5 of 9: output[0, 1, 1] = -12")
    assert page.inner_text("#sum").endswith("= -12")


def test_mouse_and_touch_move_the_kernel(open_page):
    page = open_page(has_touch=True)
    cell = "#padded tbody tr:nth-child({}) td:nth-child({})".format
    page.tap(cell(4, 7))
    assert status(page).startswith("Window 6 of 9")
    source, target = (page.locator(cell(*at)).bounding_box() for at in ((2, 3), (6, 7)))
    page.mouse.move(source["x"] + 5, source["y"] + 5)
    page.mouse.down()
    assert status(page).startswith("Window 1 of 9")
    page.mouse.move(target["x"] + 5, target["y"] + 5, steps=5)
    page.mouse.up()
    assert status(page).startswith("Window 9 of 9")


def test_the_keyboard_is_enough(page):
    page.focus("#padded")
    for key, window in (
        ("ArrowRight", 2),
        ("ArrowDown", 5),
        ("ArrowLeft", 4),
        ("ArrowLeft", 4),
        ("End", 9),
        ("ArrowUp", 6),
        ("Home", 1),
    ):
        page.keyboard.press(key)
        assert status(page).startswith(f"Window {window} of 9"), key
    page.focus("#output button[tabindex='0']")
    page.keyboard.press("ArrowDown")
    assert status(page).startswith("Window 4 of 9")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "output 1, 0"
    )
    page.focus("#tab-forward")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-input-grad", "aria-selected") == "true"
    page.keyboard.press("Tab")
    page.focus("#touch-input button[tabindex='0']")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#touch-text") == (
        "Input pixel 1, 1 touches 4 of 9 outputs of a channel, through 4 taps."
    )
    page.focus("#tab-input-grad")
    page.keyboard.press("End")
    assert page.is_visible("#panel-quiz")
    # What can be reached with Tab is everything that can be used.
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {
        "theme",
        "height",
        "padding-mode",
        "reset",
        "tab-quiz",
        "quiz-reply",
        "quiz-check",
        "quiz-next",
    } <= reached


def test_everything_usable_has_a_name(page):
    unnamed = page.eval_on_selector_all(
        "input, select, button",
        """nodes => nodes.filter(n => !(n.labels && n.labels.length) && !n.innerText.trim() &&
            !n.getAttribute('aria-label') && n.offsetParent).map(n => n.outerHTML)""",
    )
    assert unnamed == []
    for tab in TABS:
        page.click(f"#tab-{tab}")
        panel = page.get_attribute(f"#tab-{tab}", "aria-controls")
        assert page.get_attribute(f"#{panel}", "aria-labelledby") == f"tab-{tab}"
        assert page.is_visible(f"#{panel}")
    assert page.eval_on_selector_all("[role=tab][tabindex='0']", "t => t.length") == 1


def test_gradient_views(page):
    fill(page, height=6, width=6, stride_h=1, stride_w=1)
    page.select_option("#padding-mode", "reflect")
    page.click("#tab-input-grad")
    page.click("#touch-input tbody tr:nth-child(2) td:nth-child(3) button")
    setting = Setting(H=6, W=6, stride=(1, 1), padding_mode="reflect")
    image, weight = (tensor.requires_grad_() for tensor in small_integers(setting))
    convext.conv2d(image, weight, padding=1, padding_mode="reflect").sum().backward()
    assert page.inner_text("#touch-sum").endswith(f"ones: {image.grad[0, 0, 1, 1]:.0f}")
    assert page.eval_on_selector_all("#touch-padded td.window", "c => c.length") == 4
    page.click("#tab-weight-grad")
    page.click("#pair-weight tbody tr:nth-child(1) td:nth-child(4) button")
    assert page.inner_text("#pair-sum").endswith(f"ones: {weight.grad[0, 0, 0, 2]:.0f}")
    assert page.eval_on_selector_all("#pair-padded td.window", "c => c.length") == 36
    assert "used in 36 products" in page.inner_text("#pair-text")
    assert "36" in page.inner_text("#pair-list caption")


@pytest.mark.parametrize(
    "setting",
    [
        LESSON,
        Setting(4, 9, 8, 6, 3, 2, (2, 1), (1, 0), (1, 2), 2, "replicate"),
        Setting(2, 6, 7, 2, padding=(1, 0, 2, 1), padding_mode="reflect"),
        Setting(2, 6, 7, 2, padding=(1, 0, 2, 1)),
        Setting(1, 6, 7, 2, 4, 3, (1, 1), "same", padding_mode="circular"),
    ],
    ids=["lesson", "pairs", "reflect", "zeros", "same"],
)
def test_the_code_runs(page, setting, capsys):
    write(page, setting)
    page.click("#tab-code")
    size = torch.Size((1, setting.K, *setting.output_size))
    for holder in ("code-torch", "code-convext"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(page.inner_text(f"#{holder}"), {})
        assert printed.getvalue() == f"{size}\n"
    assert main(shlex.split(page.inner_text("#code-trace").replace("\\\n", ""))[1:]) == 0
    assert "output " + "x".join(map(str, size[1:])) in capsys.readouterr().out


def test_the_code_is_copied(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.click("#tab-code")
    page.click("[data-from=code-torch]")
    expect(page.locator("#copied")).to_have_text("Copied.", timeout=60_000)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.text_content("#code-torch")
    assert "nn.Conv2d(1, 1, 3, stride=2, padding=1)" in copied


def test_where_copying_is_not_allowed_the_text_is_selected(page):
    page.click("#tab-code")
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }"
    )
    page.click("[data-from=code-trace]")
    expect(page.locator("#copied")).to_contain_text("is selected", timeout=60_000)
    assert page.evaluate("String(getSelection())") == page.text_content("#code-trace")


def test_the_quiz_grades(page):
    page.click("#tab-quiz")
    for number, question in enumerate([*quiz.lesson(), *quiz.generated(3)]):
        assert page.inner_text("#quiz-question") == question.text
        if number == 1:
            page.fill("#quiz-reply", "a few")
            page.click("#quiz-check")
            assert page.inner_text("#quiz-verdict") == f"Please answer with {question.hint}."
            page.fill("#quiz-reply", "999")
            page.keyboard.press("Enter")
            assert page.inner_text("#quiz-verdict") == f"Not quite. {question.explanation}"
        page.fill("#quiz-reply", " ".join(map(str, question.answer)) or "none")
        page.click("#quiz-check")
        assert page.inner_text("#quiz-verdict") == f"Right. {question.explanation}"
        right = number + 1 if number == 0 else number
        assert page.inner_text("#quiz-score").startswith(f"{right} of {number + 1} right")
        page.click("#quiz-next")
    assert "Generated question 4 of" in page.inner_text("#quiz-count")
    questions = [*quiz.lesson(), *quiz.generated(html.GENERATED)]
    replies = ["3x3", "3", "2", "none", "None!", "", "?", "5, 6", "4 4", "12", "1", "0"]
    replies += ["-2", "3-3"]
    graded = page.evaluate(
        "replies => APP.quiz.questions.map(q => replies.map(r => checkReply(q, r)))", replies
    )
    assert graded == [[question.check(reply) for reply in replies] for question in questions]


def test_a_narrow_window_does_not_overflow(open_page, screenshots):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert not page.is_visible("#height")
    page.click("#setting-box summary")
    large = Setting(8, 16, 16, 8, 7, 7, (1, 1), (8, 8), (2, 2))
    for setting in (LESSON, large, Setting(H=2, W=2, padding=(0, 0))):
        write(page, setting)
        for tab in TABS:
            page.tap(f"#tab-{tab}")
            width = page.evaluate(
                "[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
            )
            assert max(width) <= 360, (setting, tab)
            if setting == LESSON:
                page.screenshot(path=screenshots / f"narrow-{tab}.png", full_page=True)
    write(page, LESSON)
    page.tap("#tab-forward")
    page.tap("#padded tbody tr:nth-child(7) td:nth-child(8)")
    assert status(page).startswith("Window 9 of 9")


def test_light_and_dark(open_page, screenshots):
    colours = {}
    for scheme in ("light", "dark"):
        page = open_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for tab in ("forward", "kernel"):
            page.click(f"#tab-{tab}")
            page.screenshot(path=screenshots / f"{scheme}-{tab}.png", full_page=True)
    assert colours["light"] != colours["dark"]
    page.select_option("#theme", "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colours["light"]
