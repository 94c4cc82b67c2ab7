"""Plans: :class:`Plan` and :class:`PassPlan`. :func:`convext.explain` makes them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from . import _C
from ._sources import chapter_of

# The passes by their names here and in the kernels.
PASSES = {
    "forward": "fprop",
    "input_grad": "dgrad",
    "weight_grad": "wgrad",
    "bias_grad": "bgrad",
}

# What a plan's cycles are spent on, in words.
BOUNDS = {"multiply": "multiplying", "move": "packing", "memory": "memory"}

SCHEMA = 1

_NATIVE_NAMES = {native: name for name, native in PASSES.items()}


@dataclass(frozen=True)
class PassPlan:
    """The plan of one pass.

    Attributes:
        name: ``"forward"``, ``"input_grad"``, ``"weight_grad"`` or ``"bias_grad"``.
        kernel: pass_algorithm_dtype_layout_tile_arch.
        algorithm: as :func:`force_plan` takes it.
        arch: the CPU's instruction set, or ``"sm_90"``: the compute capability planned for.
        tile: rows and columns of the register tile, (mr, nr); of a CUDA kernel (m, n, k) of a
            thread block, zeros where there is none.
        threads: how many take part; of a CUDA kernel 0.
        workspace_bytes: working memory of the call, at most.
        thread_workspace_bytes: and of each thread.
        flops: 2 N K P Q C/groups R S; of the bias gradient N K P Q.
        bytes: the least traffic, each tensor once.
        cycles: expected cycles of one core, ``"multiply"``, ``"move"`` (packing) and ``"memory"``,
            by the cost model of ``csrc/plan/cost_model.h``; none of a CUDA kernel.
        seconds: these, shared by the threads, at the nominal clock of this machine's cores; None
            of a CUDA kernel. A model's figure, not a measurement.
        bound: what most cycles go to: ``"multiplying"``, ``"packing"`` or ``"memory"``; "" of a
            CUDA kernel.
        reason: why this kernel.
        refused: (kernel, why not), each of the others.
        blocking: how the work is cut, a line each.
        sources: file:line name, of the sources that were built; the first computes, the last cuts
            the work. Behind it stands, where copied padding makes it a step of its own, the
            border's gradient.
        remarks: what else there is to know, a sentence each.
    """

    name: str
    kernel: str
    algorithm: str
    arch: str
    tile: tuple[int, ...]
    threads: int
    workspace_bytes: int
    thread_workspace_bytes: int
    flops: int
    bytes: int
    cycles: dict[str, float]
    seconds: float | None
    bound: str
    reason: str
    refused: tuple[tuple[str, str], ...]
    blocking: tuple[str, ...]
    sources: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def chapter(self) -> str:
        """The chapter of the book of kernels, a file of the documentation's sources."""
        return chapter_of(self.algorithm, PASSES[self.name], cuda=self.arch.startswith("sm_"))

    @property
    def clock(self) -> float | None:
        """By which ``seconds`` are told, in cycles per second; None where there are none."""
        return sum(self.cycles.values()) / (self.threads * self.seconds) if self.seconds else None

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: operations for each byte that has to be moved, as on a roofline's
        axis (S. Williams, A. Waterman and D. Patterson, "Roofline", 2009)."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def most_workspace_bytes(self) -> int:
        """Working memory of the call and of all its threads, at most."""
        return self.workspace_bytes + self.threads * self.thread_workspace_bytes

    def facts(self) -> list[tuple[str, str]]:
        """(what, in words), without the other kernels; "" where a line goes on from the last."""
        expected = []
        if self.flops == 0:
            expected = ["nothing runs: there is nothing to compute"]
        elif self.seconds is None:
            expected = ["no time: the cost model is of CPUs, and CUDA kernels go by rank"]
        elif self.clock is not None:
            threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            spent = ", ".join(f"{self.cycles[key] / 1e3:.4g} {BOUNDS[key]}" for key in BOUNDS)
            expected = [
                f"{_seconds(self.seconds)} on {threads} at {self.clock / 1e9:.2f} GHz, bound by "
                f"{self.bound}",
                f"kilocycles of one core: {spent}",
            ]
        own = ""
        if self.threads:
            own = f", and {size_text(self.thread_workspace_bytes)} of each thread"
        work = (
            f"{self.flops / 1e6:.4g} MFLOP, {size_text(self.bytes)} to move at least: "
            f"{self.intensity:.3g} flop a byte"
        )
        lines = {
            "why": [self.reason],
            "tiles": self.blocking,
            "work": [work],
            "expected": expected,
            "workspace": [size_text(self.workspace_bytes) + own],
            "source": self.sources,
            "read": [self.chapter] if self.chapter else [],
            "note": self.remarks,
        }
        return [
            ("" if at else name, line)
            for name, given in lines.items()
            for at, line in enumerate(given)
        ]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.kernel}"]
        lines += [f"  {name:<10} {value}" for name, value in self.facts()]
        lines += [f"  {'not':<10} {kernel}: {why}" for kernel, why in self.refused]
        return "\n".join(lines)


class Plan:
    """What a convolution will do, pass by pass. :func:`explain` makes it.

    ``print`` shows all of it, a notebook a table.

    Attributes:
        problem: the geometry: N C H W, K R S, P Q, pad_top ..., stride_h ..., groups, dtype.
        device: ``"cpu"``, or a GPU's compute capability, ``"sm_90"``.
        passes: name -> :class:`convext.plan.PassPlan`, of ``"forward"``, ``"input_grad"``,
            ``"weight_grad"`` and ``"bias_grad"``. ``plan["forward"]`` is short for it, and so is
            ``plan["fprop"]``, by the name that kernels have.
        complex_dtype: ``"complex64"``, say: the convolution consists of real ones, whose geometry
            ``problem`` is; "" of a real one.
    """

    def __init__(
        self,
        problem: _C.ConvProblem,
        device: str,
        passes: Mapping[str, PassPlan],
        complex_dtype: str = "",
    ) -> None:
        self.problem = problem
        self.device = device
        self.passes = dict(passes)
        self.complex_dtype = complex_dtype

    def __getitem__(self, name: str) -> PassPlan:
        try:
            return self.passes[_NATIVE_NAMES.get(name, name)]
        except KeyError:
            raise KeyError(
                f"{name!r} is no pass; there are {', '.join(PASSES)} ({', '.join(_NATIVE_NAMES)})"
            ) from None

    @property
    def output_size(self) -> tuple[int, int, int, int]:
        """(N, K, P, Q)."""
        p = self.problem
        return (p.N, p.K, p.P, p.Q)

    @property
    def formula(self) -> dict[str, str]:
        """How the output's height P and width Q come about, with the numbers filled in.

        The formula is that of :class:`torch.nn.Conv2d`, with padding on four sides.
        """
        p = self.problem

        def filled(extent: int, pads: str, dilation: int, taps: int, stride: int, out: int) -> str:
            last = f"{extent} + {pads} - {dilation} * ({taps} - 1) - 1"
            return f"floor(({last}) / {stride}) + 1 = {out}"

        return {
            "P": filled(p.H, f"{p.pad_top} + {p.pad_bottom}", p.dilation_h, p.R, p.stride_h, p.P),
            "Q": filled(p.W, f"{p.pad_left} + {p.pad_right}", p.dilation_w, p.S, p.stride_w, p.Q),
        }

    @property
    def flops(self) -> int:
        """Of the forward pass, a multiplication and an addition counted each."""
        return self["forward"].flops

    @property
    def bytes(self) -> int:
        """Least traffic of the forward pass: input, weight and output, once each."""
        return self["forward"].bytes

    @property
    def intensity(self) -> float:
        """Operations for each byte of the forward pass."""
        return self["forward"].intensity

    @property
    def spec(self) -> str:
        """The kernels as :func:`force_plan` and ``CONVEXT_PLAN`` take them."""
        where = "" if self.device == "cpu" else "cuda:"
        return ",".join(
            f"{where}{PASSES[name]}={plan.kernel}" for name, plan in self.passes.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dicts, for JSON."""
        p = self.problem
        return {
            "schema": SCHEMA,
            "device": self.device,
            "complex_dtype": self.complex_dtype,
            "problem": {
                "input_size": [p.N, p.C, p.H, p.W],
                "weight_size": [p.K, p.C // p.groups, p.R, p.S],
                "stride": [p.stride_h, p.stride_w],
                "padding": [p.pad_left, p.pad_right, p.pad_top, p.pad_bottom],
                "dilation": [p.dilation_h, p.dilation_w],
                "groups": p.groups,
                "padding_mode": p.padding_mode,
                "dtype": p.dtype,
                "input_layout": p.input_layout,
                "weight_layout": p.weight_layout,
            },
            "output_size": list(self.output_size),
            "formula": self.formula,
            "passes": {
                name: {**asdict(plan), "intensity": plan.intensity}
                for name, plan in self.passes.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that :meth:`to_dict` made these of.

        Raises:
            ValueError: they are not a plan's, or name a kernel that there is not.
        """
        try:
            return cls._of(values)
        except ValueError as error:
            raise ValueError(f"values is no plan of convext's: {error}") from error

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Plan:
        """The same; a ValueError says only what is wrong with them."""
        try:
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']!r}, where {SCHEMA} is known")
            if set(values["passes"]) != set(PASSES):
                raise ValueError(f"its passes are not {', '.join(PASSES)}")
            passes = {}
            for name, given in values["passes"].items():
                fields = {key: given[key] for key in PassPlan.__dataclass_fields__}
                fields["refused"] = tuple((kernel, why) for kernel, why in fields["refused"])
                for key in ("tile", "blocking", "sources", "remarks"):
                    fields[key] = tuple(fields[key])
                passes[name] = PassPlan(**fields)
                _check_kernel(passes[name])
            return cls(
                _C.ConvProblem(**values["problem"]),
                values["device"],
                passes,
                values["complex_dtype"],
            )
        except KeyError as error:
            raise ValueError(f"no entry {error}") from error
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(str(error)) from error

    def save(self, path: str | PathLike[str]) -> None:
        """Writes it to a file, as JSON.

        Raises:
            OSError: ``path`` cannot be written.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """A plan that :meth:`save` wrote: to be looked at, compared, or forced.

        >>> convext.explain(layer, image).save("plan.json")
        >>> with convext.force_plan(convext.Plan.load("plan.json")):
        ...     output = layer(image)

        Raises:
            OSError: ``path`` cannot be read.
            ValueError: it holds no plan, or one with a kernel that there is not.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("no object of JSON")
            return cls._of(values)
        except ValueError as error:
            raise ValueError(f"{path} holds no plan, as Plan.save writes one: {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def facts(self) -> list[tuple[str, str]]:
        """(what, in words), before the passes."""
        p = self.problem
        pads = (p.pad_left, p.pad_right, p.pad_top, p.pad_bottom)
        dtype = f"{p.dtype}, {p.input_layout}"
        if self.complex_dtype:
            dtype = f"{self.complex_dtype}, run as real convolutions of {p.dtype}"
        return [
            ("input", f"{p.N}x{p.C}x{p.H}x{p.W} {dtype}"),
            (
                "convolution",
                f"{p.K} channels of {p.R}x{p.S}, stride {p.stride_h}x{p.stride_w}, padding "
                f"{' '.join(map(str, pads))} (left right top bottom) {p.padding_mode}, dilation "
                f"{p.dilation_h}x{p.dilation_w}, groups {p.groups}",
            ),
            ("output", "x".join(map(str, self.output_size))),
            ("  height", self.formula["P"]),
            ("  width", self.formula["Q"]),
            ("device", self.device),
        ]

    def __str__(self) -> str:
        facts = "\n".join(f"{name:<12} {value}" for name, value in self.facts())
        return "\n\n".join([facts, *map(str, self.passes.values())])

    def __repr__(self) -> str:
        kernels = ", ".join(f"{name}={plan.kernel}" for name, plan in self.passes.items())
        return f"<convext.Plan on {self.device}: {kernels}>"

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str = "td") -> str:
            style = 'style="text-align: left; vertical-align: top"'
            return "<tr>" + "".join(f"<{tag} {style}>{cell}</{tag}>" for cell in cells) + "</tr>"

        facts = "".join(row([html.escape(name), html.escape(text)]) for name, text in self.facts())
        columns = ("tiles", "work", "expected", "workspace", "source", "read", "note")
        rows = [row(["pass", "kernel", *columns], "th")]
        for name, plan in self.passes.items():
            lines: dict[str, list[str]] = {}
            for head, text in plan.facts():
                lines.setdefault(head or list(lines)[-1], []).append(html.escape(text))
            refused = "".join(
                f"<li><code>{html.escape(kernel)}</code>: {html.escape(why)}</li>"
                for kernel, why in plan.refused
            )
            kernel = (
                f"<code>{html.escape(plan.kernel)}</code><details><summary>"
                f"{html.escape(plan.reason)}; {len(plan.refused)} refused</summary>"
                f"<ul>{refused}</ul></details>"
            )
            rows.append(row([name, kernel, *("<br>".join(lines.get(c, [])) for c in columns)]))
        return f"<table>{facts}</table><table>{''.join(rows)}</table>"


def _check_kernel(plan: PassPlan) -> None:
    """A kernel of an instruction set that was not built may come from another machine.

    Raises:
        ValueError: this is no kernel's name, or one that this build ought to have.
    """
    native, kernel = PASSES[plan.name], plan.kernel
    named = isinstance(kernel, str) and kernel.startswith(f"{native}_{plan.algorithm}_")
    kernels = _C.kernels()
    built = plan.arch in {each["arch"] for each in kernels}
    if not named or (built and kernel not in {each["name"] for each in kernels}):
        raise ValueError(f"the kernel of {plan.name} is {kernel!r}, which there is not")


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def size_text(count: int) -> str:
    """A number of bytes in words: ``"2.5 MiB"``."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
