"""Convolution layers to measure: one layer, shape tables in CSV, the layers of a model."""

from __future__ import annotations

import csv
import difflib
import fnmatch
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

Pair = tuple[int, int]

COLUMNS = ("name", "C", "H", "W", "K", "R", "S", "stride", "padding", "dilation", "groups")

#: In place of the name of a table: every table that is shipped.
ALL = "all"


class ShapeError(ValueError):
    """A shape table that cannot be found or read, or a layer name it does not have."""


@dataclass(frozen=True)
class ConvShape:
    """One convolution layer.

    ``C, H, W`` are the input's extents, ``K`` the output channels, ``R, S`` the kernel's extents.
    The batch size is the run's business, unless the layer has one of its own, ``N``. ``table`` is
    the table it stands in.
    """

    name: str
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    N: int | None = None
    table: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        own = 1 if self.N is None else self.N
        positive = (own, self.C, self.H, self.W, self.K, self.R, self.S, self.groups)
        if min(positive + self.stride + self.dilation) < 1 or min(self.padding) < 0:
            raise ShapeError(f"layer {self.name!r}: an extent is not positive")
        if self.C % self.groups or self.K % self.groups:
            raise ShapeError(f"layer {self.name!r}: C and K must be multiples of groups")

    @property
    def geometry(self) -> ConvShape:
        """The shape without its name: equal for layers that do the same work."""
        return replace(self, name="")

    def batches(self, wanted: Sequence[int]) -> list[int]:
        """The batch sizes to run: the layer's own, or those that are wanted."""
        return list(wanted) if self.N is None else [self.N]

    def pads_with(self, mode: str) -> bool:
        """Whether the layer can be run in a padding mode, and differs from other modes in it.

        Reflections do not reach the edge pixel, so reflect needs padding below the extent.
        """
        if mode == "zeros":
            return True
        room = 1 if mode == "reflect" else 0
        fits = self.padding[0] <= self.H - room and self.padding[1] <= self.W - room
        return max(self.padding) > 0 and (fits or mode == "replicate")

    def input_size(self, batch: int) -> tuple[int, int, int, int]:
        """(N, C, H, W) of the input."""
        return (batch, self.C, self.H, self.W)

    @property
    def weight_size(self) -> tuple[int, int, int, int]:
        """(K, C / groups, R, S) of the weight."""
        return (self.K, self.C // self.groups, self.R, self.S)

    def output_size(self, batch: int) -> tuple[int, int, int, int]:
        """(N, K, P, Q) of the output, from torch on the meta device."""
        output = torch.nn.functional.conv2d(
            torch.empty(self.input_size(batch), device="meta"),
            torch.empty(self.weight_size, device="meta"),
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
        n, k, p, q = output.shape
        return (n, k, p, q)

    def flops(self, batch: int) -> int:
        """Nominal floating-point operations of one pass (forward, input or weight gradient)."""
        n, k, p, q = self.output_size(batch)
        return 2 * n * k * p * q * (self.C // self.groups) * self.R * self.S

    def pass_flops(self, pass_: str, batch: int) -> int:
        """Nominal floating-point operations of what is timed: ``backward`` is both gradients."""
        return (2 if pass_ == "backward" else 1) * self.flops(batch)

    def pass_bytes(self, pass_: str, batch: int, itemsize: int) -> int:
        """Bytes that a pass has to move: what it needs read once, what it computes written once.

        ``itemsize`` is the bytes of an element.
        """
        sizes = (self.input_size(batch), self.weight_size, self.output_size(batch))
        input, weight, output = (math.prod(size) for size in sizes)
        if pass_ == "backward":  # reads all three, writes two
            return itemsize * (2 * input + 2 * weight + output)
        return itemsize * (input + weight + output)

    def as_dict(self) -> dict[str, Any]:
        """The layer without its name, for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @staticmethod
    def from_dict(name: str, fields: dict[str, Any]) -> ConvShape:
        """The layer that ``as_dict`` wrote.

        Raises:
            ShapeError: a field is missing, unknown or not a number.
        """
        pairs = ("stride", "padding", "dilation")
        try:
            return ConvShape(name, **{**fields, **{key: tuple(fields[key]) for key in pairs}})
        except (KeyError, TypeError) as error:
            raise ShapeError(f"layer {name!r}: not a geometry: {error}") from error


def _pair(text: str) -> Pair:
    """``"2"`` -> (2, 2); ``"0x3"`` -> (0, 3), height first."""
    values = [int(part) for part in text.split("x")]
    if len(values) not in (1, 2):
        raise ValueError(f"{text!r} is neither a number nor HxW")
    return (values[0], values[-1])


def read_table(path: Path) -> list[ConvShape]:
    """Read a shape table.

    Columns are those of ``COLUMNS``; stride, padding and dilation are a number, or ``HxW`` where
    the two directions differ. A further column ``N`` may give layers a batch size of their own;
    where it is empty, the run's holds. Lines that start with ``#`` are comments.

    Raises:
        ShapeError: a column is missing, a value is not a number, or a name stands twice.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(line for line in file if not line.startswith("#"))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ShapeError(f"{path.name}: no column {', '.join(missing)}")
        shapes: list[ConvShape] = []
        for row in reader:
            try:
                shape = ConvShape(
                    row["name"],
                    **{column: int(row[column]) for column in "CHWKRS"},
                    stride=_pair(row["stride"]),
                    padding=_pair(row["padding"]),
                    dilation=_pair(row["dilation"]),
                    groups=int(row["groups"]),
                    N=int(row["N"]) if row.get("N") else None,
                    table=path.stem,
                )
            except (TypeError, ValueError) as error:
                raise ShapeError(f"{path.name}: row {row['name']!r}: {error}") from error
            if any(shape.name == other.name for other in shapes):
                raise ShapeError(f"{path.name}: {shape.name!r} stands twice")
            shapes.append(shape)
    if not shapes:
        raise ShapeError(f"{path.name}: no layers")
    return shapes


def table_directories() -> list[Path]:
    """Where tables are looked up by name: package, source tree, current directory."""
    here = Path(__file__).resolve().parent
    source_tree = here.parents[2] / "benchmarks" / "shapes"
    return [here / "shapes", source_tree, Path("benchmarks") / "shapes"]


def shipped_tables() -> dict[str, Path]:
    """The tables that can be given by name, in the order of their names."""
    found: dict[str, Path] = {}
    for directory in table_directories():
        for path in directory.glob("*.csv"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_table(name: str) -> Path:
    """Path of a table given as a path to a CSV file or as the bare name of a shipped one.

    Raises:
        ShapeError: there is no such file.
    """
    if name.endswith(".csv"):
        if Path(name).is_file():
            return Path(name)
        raise ShapeError(f"no shape table {name}")
    shipped = shipped_tables()
    if name in shipped:
        return shipped[name]
    known = ", ".join(shipped) or "none here: run from the source tree or give a CSV file"
    raise ShapeError(f"no shape table {name!r}; known: {known}")


def read_tables(names: Sequence[str]) -> list[ConvShape]:
    """The layers of several tables; the name ``all`` stands for every shipped one.

    Raises:
        ShapeError: a table cannot be found or read, or a layer's name stands in two of them.
    """
    paths: dict[Path, None] = {}
    for name in names:
        if name == ALL:
            if not shipped_tables():
                find_table(name)  # which says that there are none
            paths.update(dict.fromkeys(shipped_tables().values()))
        else:
            paths[find_table(name)] = None
    layers: dict[str, ConvShape] = {}
    for path in paths:
        for shape in read_table(path):
            other = layers.setdefault(shape.name, shape)
            if other is not shape:
                raise ShapeError(f"{shape.name!r} stands in {other.table} and in {shape.table}")
    return list(layers.values())


def select(shapes: Iterable[ConvShape], patterns: Sequence[str]) -> list[ConvShape]:
    """The shapes whose name matches one of the patterns (shell wildcards); all if there is none.

    Raises:
        ShapeError: a pattern matches nothing.
    """
    shapes = list(shapes)
    if not patterns:
        return shapes
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(shape.name, pattern) for shape in shapes):
            names = [shape.name for shape in shapes]
            near = difflib.get_close_matches(pattern, names, n=5, cutoff=0.4)
            raise ShapeError(
                f"no layer matches {pattern!r}; {'close ones are' if near else 'there are'} "
                f"{', '.join(near or names)}"
            )
    return [
        shape
        for shape in shapes
        if any(fnmatch.fnmatchcase(shape.name, pattern) for pattern in patterns)
    ]


def collect(model: torch.nn.Module, *inputs: torch.Tensor) -> list[ConvShape]:
    """The distinct ``nn.Conv2d`` layers a model runs, in the order it runs them.

    The model is run once on ``inputs`` with a hook on each layer, so the shapes are those of a real
    pass. Both may live on the meta device. Names are those of the modules.
    """
    found: dict[ConvShape, ConvShape] = {}

    def record(name: str, module: torch.nn.Conv2d, input: torch.Tensor) -> None:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise ShapeError(f"{name}: only numeric zero padding fits a shape table")
        _, channels, height, width = input.shape
        out_channels, _, kernel_h, kernel_w = module.weight.shape
        shape = ConvShape(
            name,
            channels,
            height,
            width,
            out_channels,
            kernel_h,
            kernel_w,
            stride=(module.stride[0], module.stride[1]),
            padding=(module.padding[0], module.padding[1]),
            dilation=(module.dilation[0], module.dilation[1]),
            groups=module.groups,
        )
        found.setdefault(shape.geometry, shape)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):

            def hook(
                layer: torch.nn.Module, args: tuple[torch.Tensor, ...], name: str = name
            ) -> None:
                assert isinstance(layer, torch.nn.Conv2d)
                record(name, layer, args[0])

            handles.append(module.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())
