"""The tab *kernel* of the page: plans, the implicit matrix, tiles and bytes."""

import random

import pytest
import torch
import torch.nn.functional as F
from pages import MODES, cells, write

import convext
from convext import _C
from convext.tracing import LESSON, Setting, html
from convext.tracing.setting import small_integers


def test_plans_come_from_the_table_or_are_not_known(page):
    draw = random.Random(3)
    axes = html.GRID
    known = 0
    while known < 40:
        size, kernel, stride, dilation = (
            draw.choice(axes[name]) for name in ("size", "kernel", "stride", "dilation")
        )
        C, K, groups = draw.choice(axes["channels"])
        setting = Setting(
            C,
            *size,
            K,
            *kernel,
            tuple(stride),
            (draw.choice(axes["padding"]),) * 2,
            tuple(dilation),
            groups,
            draw.choice(MODES),
        )
        if setting.refusal() is not None or setting == LESSON:
            continue
        known += 1
        write(page, setting)
        plan = page.evaluate("planOf(APP.setting, DATA)")
        names = [plan[name]["kernel"] for name in ("forward", "input_grad", "weight_grad")]
        assert names == [
            _C.plan(setting.problem, name).kernel for name in ("fprop", "dgrad", "wgrad")
        ]
        planned = _C.plan(setting.problem)
        assert plan["forward"]["tile"] == [planned.mr, planned.nr]
        use = page.evaluate("tileUse(APP.setting, planOf(APP.setting, DATA).forward, DATA.tiles)")
        assert use["computed"] == use["count"] * planned.mr * planned.nr >= use["used"]
        if use["kind"]["lanes"] != "depth" and "blocks" not in use["kind"]["rows"]:
            P, Q = setting.output_size
            assert use["used"] == setting.K * P * Q
    page.click("#tab-kernel")
    assert "from the table in this page" in page.inner_text("#plan")
    write(page, Setting(3, 9, 9, 8, 3, 5, (2, 1), (1, 0, 2, 1), (1, 2), padding_mode="reflect"))
    assert "The plan of this setting is not known" in page.inner_text("#plan")
    assert page.inner_text("#ask") == (
        "convext explain --in 1,3,9,9 --conv 8,3x5,s2x1,p1x0x2x1,d1x2,reflect"
    )
    assert "not known" in page.inner_text("#tile-text")
    assert page.eval_on_selector_all("#tile-map span", "s => s.length") == 0


@pytest.mark.parametrize(
    "setting",
    [
        LESSON,
        Setting(2, 7, 8, 4, 3, 2, (2, 1), (1, 0, 2, 1), (1, 2)),
        Setting(4, 9, 9, 6, stride=(1, 1), padding=(2, 2), groups=2, padding_mode="reflect"),
        Setting(8, 5, 5, 8, 3, 3, groups=8),
    ],
    ids=["lesson", "pairs", "grouped", "depthwise"],
)
def test_the_matrix_and_the_bytes(page, setting):
    """The matrix is torch's unfold of the padded input."""
    image, _ = small_integers(setting)
    mode = "constant" if setting.padding_mode == "zeros" else setting.padding_mode
    window = {"kernel_size": (setting.R, setting.S)}
    window |= {"stride": setting.stride, "dilation": setting.dilation}
    group = setting.C // setting.groups
    write(page, setting)
    page.click("#tab-kernel")
    if setting.K > 1:
        page.select_option("#shown-k", str(setting.K - 1))
    matrix = F.unfold(F.pad(image, setting.pad, mode)[:, -group:], **window)[0].T
    shown = [[f"{value:.0f}" for value in row] for row in matrix[:36, :36].tolist()]
    assert cells(page, "gemm") == shown
    zeros = 0
    if mode == "constant":
        inside = F.pad(torch.ones_like(image), setting.pad)
        zeros = int((F.unfold(inside, **window) == 0).sum())
    P, Q = setting.output_size
    bytes_of = [
        image.numel(),
        setting.K * group * setting.R * setting.S,
        setting.K * P * Q,
        P * Q * setting.C * setting.R * setting.S,
        zeros,
    ]
    assert [row[0] for row in cells(page, "bytes")][:5] == [str(4 * count) for count in bytes_of]


@pytest.mark.parametrize(
    ("algorithm", "setting"),
    [
        ("indirect", Setting(2, 5, 7, 5, stride=(1, 1))),
        ("direct", Setting(2, 5, 7, 5, stride=(1, 1))),
        ("im2col", Setting(4, 4, 4, 6, stride=(1, 1), groups=2)),
        ("winograd2", Setting(2, 5, 7, 5, stride=(1, 1))),
    ],
)
def test_tiles_cover_the_result(open_page, tmp_path, algorithm, setting):
    with convext.force_plan(f"fprop={algorithm}"):
        trace = convext.trace(setting)
        trace.save_html(tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    page.click("#tab-kernel")
    mr, nr = trace.content.plans["forward"]["tile"]
    (P, Q), outputs = setting.output_size, setting.K // setting.groups
    # Tiles along their rows and lanes, what of these is wanted, and after which pixels a tile ends.
    rows, lanes, wanted, ends = {
        "indirect": (-(-P * Q // mr), -(-outputs // nr), P * Q * outputs, range(mr, P * Q, mr)),
        "direct": (
            P * -(-Q // mr),
            -(-outputs // nr),
            P * Q * outputs,
            sorted({p * Q + q for p in range(P) for q in (*range(mr, Q, mr), Q)} - {P * Q}),
        ),
        "im2col": (-(-outputs // mr), -(-P * Q // nr), P * Q * outputs, range(nr, P * Q, nr)),
        "winograd2": (-(-(-(-P // 2) * -(-Q // 2)) // mr), -(-outputs // nr), 60, []),
    }[algorithm]
    tiles = rows * lanes * setting.groups
    assert f"{tiles} tile{'s' if tiles > 1 else ''} of {mr}x{nr}" in page.inner_text("#tile-text")
    assert f"compute {tiles * mr * nr} values" in page.inner_text("#tile-text")
    if rows * mr <= 36 and lanes * nr <= 64:  # as much of it as is drawn
        spans = page.eval_on_selector_all("#tile-map span", "s => s.map(x => x.className)")
        assert len(spans) == rows * lanes * mr * nr
        assert sum("used" in name.split() for name in spans) == wanted
    marked = page.eval_on_selector_all(
        "#gemm tbody tr", "r => r.map(x => Boolean(x.querySelector('.strip-end')))"
    )
    assert [i + 1 for i, end in enumerate(marked) if end] == [end for end in ends if end <= 36]
