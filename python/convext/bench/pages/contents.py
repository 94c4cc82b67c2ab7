"""What a report says, section by section, whatever it will be written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from convext.bench import report
from convext.bench.compare import Changes
from convext.bench.environment import NOISE_CORES
from convext.bench.pages import listings, plots, roofline
from convext.bench.pages.listings import Listing
from convext.bench.pages.plots import Plot


@dataclass(frozen=True)
class Section:
    """A heading with warnings, paragraphs, figures and tables under it."""

    title: str
    warnings: Sequence[str] = ()
    paragraphs: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    listings: Sequence[Listing | None] = ()


def sections(run: dict[str, Any], before: dict[str, Any] | None) -> list[Section]:
    """The sections of a run's report, the first of which carries the report's own title.

    Args:
        run: what was read from a run's file.
        before: another run to hold it against, if any.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    cells = run["cells"]
    points, reasons = roofline.locate_all(run, cells)
    changes = None if before is None else Changes.of(before, run)
    drawn = plots.draw(run, points, changes)

    def of_kind(kind: str) -> list[Plot]:
        return [plot for plot in drawn if plot.kind == kind]

    count = f"Cells that were timed: {len(cells)}." if cells else "No cell was timed."
    found = [Section("Benchmark report", _warnings(run), [listings.machine(run), count])]
    if cells:
        placed = sorted(zip(cells, points, strict=True), key=lambda each: report.ratio_of(each[0]))[
            : report.WORST
        ]
        worst = listings.cells_listing(run, *zip(*placed, strict=True))
        means = [listings.means(cells), listings.crossed(cells), listings.costs(cells)]
        every = listings.cells_listing(run, cells, points)
        found += [
            Section("Geometric means", paragraphs=[_reading(run)], listings=means),
            Section(f"The {len(worst.rows)} worst cells", listings=[replace(worst, long=False)]),
            Section("Speed-up per layer", plots=of_kind("speedup")),
            Section("Roofline", (), _about_roofline(run, reasons), of_kind("roofline")),
        ]
    if before is not None and changes is not None:
        found.append(_comparison(before, run, changes, of_kind("change")))
    if cells:
        found.append(Section("Every cell", listings=[every]))
    return [*found, Section("Environment and options", listings=[listings.surroundings(run)])]


def _reading(run: dict[str, Any]) -> str:
    peer = listings.peer_name(run, "torch")
    return (
        f"Ratios are {peer} time / convext time: above 1 convext is quicker, below 1 slower. A "
        "cell's ratio is the median over interleaved pairs of calls, with the quartiles q1 and q3."
    )


def _warnings(run: dict[str, Any]) -> list[str]:
    """What a reader must know of a run before its figures."""
    remarks = []
    if run.get("complete") is False:
        remarks.append("The run was interrupted: these are only part of its cells.")
    others = run["environment"].get("load", {}).get("cores_busy_with_others")
    if others is not None and others > NOISE_CORES and run["options"].get("clock") == "wall":
        remarks.append(
            f"{others:.2f} cores were busy with other processes: these figures are noise."
        )
    remarks += [f"Wrong result, not timed: {text}" for text in run.get("failures", ())]
    return remarks


def _about_roofline(run: dict[str, Any], reasons: dict[str, int]) -> list[str]:
    about = [
        "Operations are those of a direct convolution, 2 N K P Q C / groups R S, both gradients "
        "twice; bytes are the operands read once and the results written once. The roof is the "
        "lower of the machine's peak of arithmetic and its bandwidth times the operations per "
        "byte, both measured when the run started. Kernels that multiply less than the definition "
        "does, as Winograd's, may rise above it."
    ]
    placed = len(run["cells"]) - sum(reasons.values())
    return (about if placed else []) + [
        f"Cells without a place under the roofline: {count}, for {reason}."
        for reason, count in reasons.items()
    ]


def _comparison(
    before: dict[str, Any], run: dict[str, Any], changes: Changes, drawn: Sequence[Plot]
) -> Section:
    counts = (
        f"Cells in both runs: {len(changes.shared)}; only in the one before: "
        f"{len(changes.only_first)}; only in the one after: {len(changes.only_second)}."
    )
    about = [f"Before: {listings.machine(before)}", f"After: {listings.machine(run)}", counts]
    tables = [listings.unequal(before, run)]
    if changes.shared:
        about.append(
            "Ratios above 1 are better than before. The speed-up is measured within each run, so "
            "that a machine which was slower in one of them does not count; torch's own time, "
            "before / after, shows how far it moved."
        )
        tables = [listings.changes_summary(changes), *tables, listings.changes_cells(changes)]
    return Section("Before and after", (), about, drawn, [*tables, listings.alone(changes)])
