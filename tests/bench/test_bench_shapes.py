"""The shape tables, and the models they are taken from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benching import TINY, TINY_CSV
from torch.utils.flop_counter import FlopCounterMode

from convext.bench import operands, shapes
from convext.bench.shapes import ConvShape, ShapeError

# MobileNetV3-Large as the paper's first table has it: kernel, expansion, output channels,
# squeeze-and-excitation, stride.
BNECKS = [
    *((3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2)),
    *((5, 120, 40, 1, 1), (5, 120, 40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1)),
    *((3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1), (3, 672, 112, 1, 1)),
    *((5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1)),
]


class Bneck(torch.nn.Module):
    def __init__(self, inputs: int, kernel: int, wide: int, outputs: int, se: int, stride: int):
        super().__init__()
        conv = torch.nn.Conv2d
        layers = [] if wide == inputs else [conv(inputs, wide, 1)]
        layers.append(conv(wide, wide, kernel, stride, kernel // 2, groups=wide))
        self.before = torch.nn.Sequential(*layers)
        narrow = max(8, (wide // 4 + 4) // 8 * 8)  # a quarter, in eights, by no more than a tenth
        narrow += 8 if narrow < 0.9 * wide / 4 else 0
        squeeze = [torch.nn.AdaptiveAvgPool2d(1), conv(wide, narrow, 1), conv(narrow, wide, 1)]
        self.squeeze = torch.nn.Sequential(*squeeze) if se else None
        self.after = conv(wide, outputs, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        wide = self.before(input)
        return self.after(wide if self.squeeze is None else wide * self.squeeze(wide))


def mobilenet_v3_large() -> torch.nn.Module:
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, 16, 3, 2, 1)]
    inputs = 16
    for bneck in BNECKS:
        layers.append(Bneck(inputs, *bneck))
        inputs = bneck[2]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(inputs, 960, 1))


def transformer(name: str) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    model: torch.nn.Module = getattr(transformers, f"{name}Model")(
        getattr(transformers, f"{name}Config")()
    )
    return model


NETWORKS = {
    "resnet50": (lambda: transformer("ResNet"), 23),
    "convnext_tiny": (lambda: transformer("ConvNext"), 8),
    "mobilenet_v3_large": (mobilenet_v3_large, 44),
}


class TestShapes:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_table_is_what_the_model_runs(self, name: str) -> None:
        make, layers = NETWORKS[name]
        with torch.device("meta"):
            found = shapes.collect(make().eval(), torch.empty(1, 3, 224, 224))
        listed = shapes.read_table(shapes.find_table(name))
        assert len(listed) == layers
        assert [shape.geometry for shape in listed] == [shape.geometry for shape in found]

    def test_all_tables(self, table: Path, tmp_path: Path) -> None:
        everything = shapes.read_tables([shapes.ALL])
        assert {shape.table for shape in everything} >= {*NETWORKS, "telling"}
        names = [shape.name for shape in everything]
        assert len(set(names)) == len(names)
        both = shapes.read_tables([shapes.ALL, "resnet50", str(table)])
        assert len(both) == len(everything) + 2
        (tmp_path / "other.csv").write_text(TINY_CSV, encoding="utf-8")
        with pytest.raises(ShapeError, match="'tiny' stands in tiny and in other"):
            shapes.read_tables([str(table), str(tmp_path / "other.csv")])

    def test_a_batch_size_of_its_own(self, table: Path) -> None:
        lines = TINY_CSV.splitlines()
        text = "\n".join([f"{lines[1]},N", f"{lines[2]},3", f"{lines[3]},"])
        table.write_text(text + "\n", encoding="utf-8")
        tiny, plain = shapes.read_table(table)
        assert (tiny.N, plain.N) == (3, None)
        assert (tiny.batches([1, 16]), plain.batches([1, 16])) == ([3], [1, 16])
        table.write_text(text.replace(",3", ",0"), encoding="utf-8")
        with pytest.raises(ShapeError, match="not positive"):
            shapes.read_table(table)

    def test_which_padding_modes_fit(self) -> None:
        def fitting(size: int, padding: int) -> list[str]:
            shape = ConvShape("a", 1, size, 9, 1, 3, 3, padding=(padding, padding))
            return [mode for mode in operands.PADDING_MODES if shape.pads_with(mode)]

        assert fitting(5, 0) == ["zeros"]
        assert fitting(5, 2) == list(operands.PADDING_MODES)
        assert fitting(2, 2) == ["zeros", "replicate", "circular"]
        assert fitting(1, 2) == ["zeros", "replicate"]

    def test_reads_pairs_and_comments(self, table: Path) -> None:
        tiny, plain = shapes.read_table(table)
        assert tiny == TINY
        assert plain == ConvShape("plain", 4, 6, 6, 4, 3, 3, (1, 1), (1, 1))

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("dilation", "dilatation", "no column dilation"),
            ("2x1", "2x1x1", "HxW"),
            ("6,6", "6,six", "six"),
            ("plain", "tiny", "stands twice"),
            ("1x2,2", "1x2,3", "multiples of groups"),
            ("1,1,1,1", "0,1,1,1", "not positive"),
            ("plain,4,6,6,4,3,3,1,1,1,1", "plain,4,6", "plain"),
        ],
    )
    def test_bad_tables_are_refused(self, table: Path, old: str, new: str, words: str) -> None:
        assert old in TINY_CSV
        table.write_text(TINY_CSV.replace(old, new), encoding="utf-8")
        with pytest.raises(ShapeError, match=words):
            shapes.read_table(table)

    def test_unknown_table_names_the_known_ones(self) -> None:
        with pytest.raises(ShapeError, match="resnet50"):
            shapes.find_table("resnet51")

    def test_flops_are_those_of_torch(self) -> None:
        made = operands.make_operands(TINY, 3, torch.float32)
        with FlopCounterMode(display=False) as counter:
            operands.make_call("torch", "forward", TINY)(made)
        assert TINY.flops(3) == counter.get_total_flops() > 0

    def test_select(self, table: Path) -> None:
        both = shapes.read_table(table)
        assert shapes.select(both, []) == both
        assert shapes.select(both, ["t*"]) == [TINY]
        with pytest.raises(ShapeError, match="there are tiny, plain"):
            shapes.select(both, ["tiny", "res*"])
