"""``convext explain``: the plan of a convolution given by its sizes."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import convext
from convext.explaining import stand_in
from convext.functional import PADDING_MODES
from convext.plan import PASSES

from ._console import make_console, make_table

DTYPES = ("float32", "float64", "bfloat16", "float16", "complex64", "complex128")

CONV_HELP = """\
output channels, kernel, and, where they are not the usual ones, s (stride), p (padding), d
(dilation), g (groups) and a padding mode, separated by commas: 64,3,s2,p1 or
8,3x5,s2x1,psame,d2,g4,reflect. Two values are height and width (p1x2), four are the padding left,
right, top and bottom (p1x0x2x1)"""


@dataclass(frozen=True)
class Conv:
    """A convolution as ``--conv`` gives it."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] | str = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"


def parse_input(text: str) -> tuple[int, ...]:
    """``"1,64,56,56"``: N,C,H,W.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    parts = text.split(",")
    _refuse_negative(text, parts)
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 4 integers separated by commas, as in 1,64,56,56"
        )
    return tuple(int(part) for part in parts)


def parse_conv(text: str) -> Conv:
    """``"64,3,s2,p1"``, see :data:`CONV_HELP`.

    Raises:
        argparse.ArgumentTypeError: it cannot be read; the message says which part.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not parts[0].isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} does not begin with output channels and a kernel, as in 64,3"
        )
    values: dict[str, Any] = {"channels": int(parts[0]), "kernel": _numbers(parts[1], (1, 2))}
    names = {"s": "stride", "p": "padding", "d": "dilation", "g": "groups"}
    for part in parts[2:]:
        name = "padding_mode" if part in PADDING_MODES else names.get(part[:1], "")
        if not name:
            raise argparse.ArgumentTypeError(
                f"{part!r} is neither a padding mode ({', '.join(PADDING_MODES)}) nor s, p, d or g "
                "and a number, as in s2"
            )
        if name in values:
            raise argparse.ArgumentTypeError(f"{text!r} gives the {name} twice")
        if name == "padding_mode":
            values[name] = part
        elif name == "groups":
            (values[name],) = _numbers(part[1:], (1,))[:1]
        elif name == "padding" and part[1:] in ("same", "valid"):
            values[name] = part[1:]
        else:
            values[name] = _numbers(part[1:], (1, 2, 4) if name == "padding" else (1, 2))
    return Conv(**values)


def _numbers(text: str, counts: tuple[int, ...]) -> tuple[int, ...]:
    """``"3"`` -> (3, 3), ``"3x5"`` -> (3, 5)."""
    parts = text.split("x")
    _refuse_negative(text, parts)
    if len(parts) not in counts or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not {' or '.join(map(str, counts))} integers separated by 'x', as in 3x5"
        )
    numbers = tuple(int(part) for part in parts)
    return numbers * 2 if len(numbers) == 1 else numbers


def _refuse_negative(text: str, parts: Sequence[str]) -> None:
    if any(re.fullmatch(r"\s*-\d+\s*", part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} has a negative number, and none may be")


def parse_pass(text: str) -> str:
    """A pass by its name here, ``"forward"``, or in kernels, ``"fprop"``."""
    return next((name for name, native in PASSES.items() if native == text), text)


def add_geometry(parser: argparse.ArgumentParser) -> None:
    """Adds ``--in`` and ``--conv``."""
    parser.add_argument(
        "--in", dest="input", type=parse_input, required=True, metavar="N,C,H,W", help="the input"
    )
    parser.add_argument(
        "--conv", type=parse_conv, required=True, metavar="K,RxS[,s..][,p..]", help=CONV_HELP
    )


def add_parser(subparsers: Any) -> None:
    """Adds ``explain`` to the subcommands of ``convext``."""
    parser = subparsers.add_parser(
        "explain",
        help="the plan of a convolution: which kernel each pass runs, and why",
        description=(
            "Shows the plan of a convolution: output size with the formula filled in, the kernel "
            "of each pass, where its source is, what it is expected to take and what bounds it, "
            "and every other kernel with the reason why it does not run."
        ),
    )
    add_geometry(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--channels-last", action="store_true", help="input and weight are channels_last"
    )
    parser.add_argument(
        "--pass",
        dest="passes",
        action="append",
        type=parse_pass,
        choices=tuple(PASSES),
        help="of this pass alone; may be given several times; fprop, dgrad, wgrad and bgrad will "
        "do too",
    )
    parser.add_argument(
        "--gpu",
        metavar="CAPABILITY",
        help="the plan of a GPU of this compute capability, as 9.0, where CUDA kernels were built",
    )
    parser.add_argument("--threads", type=int, help="plan for so many threads")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the plan there too, with all its passes ('-': print it, with those of --pass)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``convext explain``: 0, or 2 if there is no such convolution."""
    if args.threads is not None and args.threads < 1:
        print("convext explain: --threads must be 1 or more", file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(args.threads or threads)
        plan = make_plan(args)
        if args.json == "-":
            values = plan.to_dict()
            for name in set(PASSES).difference(args.passes or PASSES):
                del values["passes"][name]
            print(json.dumps(values, indent=1))
            return 0
        if args.json:
            plan.save(args.json)
    except (RuntimeError, ValueError, OSError) as error:
        # What comes from C++ begins with the library's name already.
        print(f"convext explain: {str(error).removeprefix('convext: ')}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)
    _print(plan, args.passes or list(PASSES))
    return 0


def make_plan(args: argparse.Namespace) -> convext.Plan:
    """The plan that the arguments ask for.

    Raises:
        RuntimeError, ValueError: as :func:`convext.problem` and :func:`convext.explain`.
    """
    conv: Conv = args.conv
    channels = args.input[1]
    if conv.groups < 1 or channels % conv.groups:
        raise ValueError(
            f"the input's {channels} channels cannot be split into {conv.groups} groups"
        )
    weight = (conv.channels, channels // conv.groups, *conv.kernel)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    tensors = [
        stand_in(name, size, getattr(torch, args.dtype)).contiguous(memory_format=layout)
        for name, size in (("--in", args.input), ("--conv", weight))
    ]
    problem = convext.problem(
        tensors[0],
        tensors[1],
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        padding_mode=conv.padding_mode,
    )
    return convext.explain(problem, gpu=args.gpu)


def _print(plan: convext.Plan, passes: Sequence[str]) -> None:
    console = make_console()
    for name, value in plan.facts():
        console.print(f"[bold]{name:<12}[/] {value}", soft_wrap=True)
    for name in passes:
        found = plan[name]
        console.print(f"\n[bold]{name}[/]: [bold green]{found.kernel}[/]", soft_wrap=True)
        for key, value in found.facts():
            console.print(f"  {key:<10} {value}", markup=False, soft_wrap=True)
        table = make_table()
        table.add_column("not", no_wrap=True)
        table.add_column("why not", overflow="fold")
        for kernel, why in found.refused:
            table.add_row(kernel, why)
        if found.refused:
            console.print(table)
