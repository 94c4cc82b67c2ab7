"""What tests of the page share: reading and filling the page, settings."""

import random

from convext.tracing import Setting, html

MODES = ("zeros", "reflect", "replicate", "circular")
TABS = ("forward", "input-grad", "weight-grad", "kernel", "code", "quiz")


def status(page):
    return page.inner_text("#window-text")


def fill(page, **fields):
    for name, value in fields.items():
        page.fill(f"#{name.replace('_', '-')}", str(value))


def cells(page, holder):
    return page.eval_on_selector_all(
        f"#{holder} tbody tr",
        "rows => rows.map(r => [...r.querySelectorAll('td')].map(c => c.innerText))",
    )


def write(page, setting):
    """Puts a setting into the form; the form reports it as if it had been typed."""
    page.evaluate("s => APP.controls.write(s)", html.setting_data(setting))


def random_setting(draw):
    """Possible or not, within the page's limits."""
    groups = draw.choice((1, 1, 2, 4))
    symmetric = draw.random() < 0.5
    sides = [draw.randint(0, 3) for _ in range(4)]
    return Setting(
        groups * draw.randint(1, 2),
        draw.randint(1, 12),
        draw.randint(1, 12),
        groups * draw.randint(1, 2),
        draw.randint(1, 4),
        draw.randint(1, 4),
        (draw.randint(1, 3), draw.randint(1, 3)),
        tuple(sides[:2]) if symmetric else tuple(sides),
        (draw.randint(1, 2), draw.randint(1, 2)),
        groups,
        draw.choice(MODES),
    )


def possible_settings(count):
    draw = random.Random(0)
    found = []
    while len(found) < count:
        setting = random_setting(draw)
        if setting.refusal() is None:
            found.append(setting)
    assert {setting.padding_mode for setting in found} == set(MODES)
    return found
