"""The options that the benchmark's commands share, and how their values are read."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from convext.bench import timing
from convext.bench.environment import ISA_VARIABLES
from convext.bench.operands import DTYPES, LAYOUTS, PADDING_MODES, PASSES


def names(known: Sequence[str] | dict[str, Any], what: str) -> Callable[[str], list[str]]:
    """An argparse type: a list separated by commas of names out of ``known``."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not a {what}: {', '.join(known)}")
        return found

    return parse


def counts(text: str) -> list[int]:
    """An argparse type: a list separated by commas of positive integers."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from error
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers must be positive")
    return values


def words(text: str) -> list[str]:
    """An argparse type: a list separated by commas."""
    return text.split(",")


def default_threads(quick: bool) -> list[int]:
    """One thread, and as many as torch takes by default; these alone with ``--quick``."""
    cores = os.cpu_count() or 1
    return [cores] if quick else sorted({1, cores})


_OPTIONS: dict[str, dict[str, Any]] = {
    "--shapes": {
        "type": words,
        "default": ["all"],
        "metavar": "TABLES",
        "help": "shape tables: names of shipped ones, CSV files, or all (default: all)",
    },
    "--layers": {
        "type": words,
        "default": [],
        "metavar": "NAMES",
        "help": "only these layers; shell wildcards work (default: all)",
    },
    "--pass": {
        "dest": "passes",
        "type": names(PASSES, "pass"),
        "default": None,
        "metavar": "PASSES",
        "help": (
            f"{', '.join(PASSES)}; the last is both gradients in one call "
            "(default: all; with --quick, forward and backward)"
        ),
    },
    "--dtype": {
        "type": names(DTYPES, "dtype"),
        "default": ["float32"],
        "metavar": "DTYPES",
        "help": f"{', '.join(DTYPES)} (default: float32)",
    },
    "--layout": {
        "type": names(LAYOUTS, "layout"),
        "default": list(LAYOUTS),
        "metavar": "LAYOUTS",
        "help": f"{', '.join(LAYOUTS)} (default: both)",
    },
    "--batch": {
        "type": counts,
        "default": None,
        "metavar": "SIZES",
        "help": "batch sizes of layers whose table gives none (default: 1,16; with --quick, 1)",
    },
    "--threads": {
        "type": counts,
        "default": None,
        "metavar": "COUNTS",
        "help": "numbers of threads (default: 1 and all cores; with --quick, all cores)",
    },
    "--padding-mode": {
        "type": names(PADDING_MODES, "padding mode"),
        "default": ["zeros"],
        "metavar": "MODES",
        "help": (
            f"{', '.join(PADDING_MODES)}: others than zeros are timed against torch's pad and "
            "convolution, and against convext's own zeros (default: zeros)"
        ),
    },
    "--batch-invariant": {
        "action": "store_true",
        "help": "run convext in convext.batch_invariant(), and time what that costs it",
    },
    "--isa": {
        "choices": list(ISA_VARIABLES),
        "help": "run both convext and torch in this instruction set, in a process of its own",
    },
    "--quick": {
        "action": "store_true",
        "help": "a first look in under two minutes: fewer pairs, passes, batch sizes and threads",
    },
    "--malloc": {
        "choices": ("warm", "default"),
        "default": "warm",
        "help": "warm: both sides reuse freed pages; default: what the C library does "
        "(default: warm)",
    },
    "--clock": {
        "choices": list(timing.CLOCKS),
        "default": "wall",
        "help": "cpu: CPU time, for one thread on a machine that is busy otherwise (default: wall)",
    },
    "--out": {"type": Path, "metavar": "FILE", "help": "write the run to a JSON file"},
    "--report": {
        "type": Path,
        "metavar": "DIR",
        "help": "write a report of the run to a directory: HTML, Markdown, figures, JSON; "
        "needs matplotlib",
    },
    "--before": {
        "type": Path,
        "metavar": "BEFORE.json",
        "help": "an earlier run, which the report holds this one against",
    },
    "--cells": {"action": "store_true", "help": "print every cell, not only the worst"},
}


def add(parser: argparse.ArgumentParser, *options: str, nested: bool = False, **helps: str) -> None:
    """Add shared options to a parser.

    Args:
        parser: the parser.
        options: their flags; all of them if there are none.
        nested: the parser is that of a subcommand of one that has these options already. What it is
            not given, it then leaves as the outer parser found it.
        helps: other help texts, by the flags' names without dashes.
    """
    for flag in options or _OPTIONS:
        settings = dict(_OPTIONS[flag])
        settings["help"] = helps.get(flag.lstrip("-").replace("-", "_"), settings["help"])
        if nested:
            settings["default"] = argparse.SUPPRESS
        parser.add_argument(flag, **settings)
