"""``convext compare``: a model's convolutions on convext and on torch, layer by layer."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

import convext
from convext.bench.models import IMAGE, MODELS
from convext.bench.operands import DTYPES, LAYOUTS

from ._console import make_console


def add_parser(subparsers: Any) -> None:
    """Adds ``compare`` to the subcommands of ``convext``."""
    parser = subparsers.add_parser(
        "compare",
        help="a model's convolutions on convext and on torch: errors and times of each",
        description=(
            "Runs a model, forward and backward, and compares each of its convolutions on the "
            "operands it met there: errors against float64, times, kernels, working memory. Exit "
            "code 1 if a result of convext is outside of its error bound. The same in Python: "
            "convext.compare(model, example_input)."
        ),
    )
    parser.add_argument(
        "model",
        help=f"{', '.join(MODELS)} (random weights; needs transformers), or MODULE:FUNCTION, "
        "a function without arguments that returns a model and its example input; modules of the "
        "current directory can be named",
    )
    known = parser.add_argument_group("for the models known by name")
    known.add_argument("--batch", type=int, help=f"images of 3x{IMAGE}x{IMAGE} (default: 1)")
    known.add_argument("--dtype", choices=tuple(DTYPES), help="default: float32")
    known.add_argument("--layout", choices=tuple(LAYOUTS), help="default: contiguous")
    parser.add_argument(
        "--forward", action="store_true", help="forward passes alone, without gradients"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.1,
        help="how long each layer's forward and backward pass are timed (default: 0.1)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the tables there as a page"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``convext compare``: 0 if all is within the bounds, 1 if not, 2 if it cannot run."""
    console = make_console()
    try:
        with console.status("building the model"):
            model, example_input = _load(args)
        with console.status("comparing"), torch.set_grad_enabled(not args.forward):
            comparison = convext.compare(model, example_input, seconds=args.seconds)
        if args.json:
            text = json.dumps(comparison.to_dict(), indent=2) + "\n"
            args.json.write_text(text, encoding="utf-8")
        if args.html:
            comparison.save_html(args.html)
    except (ValueError, TypeError, OSError) as error:
        print(f"convext compare: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # not that of a wrong result, which is exit code 1
        print(f"convext compare: model {args.model!r} {_raised(error)}", file=sys.stderr)
        return 2
    console.print(str(comparison), markup=False, soft_wrap=True)
    return 0 if comparison.ok else 1


def _raised(error: Exception) -> str:
    """What was raised, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"line {place.lineno} of {Path(place.filename).name}"
    return f"raises {type(error).__name__}: {error} ({where})"


def _load(args: argparse.Namespace) -> tuple[nn.Module, Any]:
    """The model and its example input.

    Raises:
        ValueError: there is no such model, or the options do not go with it.
    """
    if args.model in MODELS:
        return _known(args.model, args.batch or 1, args.dtype or "float32", args.layout)
    module_name, colon, function_name = args.model.partition(":")
    if not (module_name and colon and function_name):
        raise ValueError(
            f"model must be one of {', '.join(MODELS)}, or MODULE:FUNCTION, but got {args.model!r}"
        )
    if args.batch is not None or args.dtype or args.layout:
        raise ValueError(
            "--batch, --dtype and --layout are for models known by name; a function returns an "
            "example input of its own"
        )
    if module_name.endswith(".py") or os.sep in module_name:
        raise ValueError(
            f"model {args.model!r}: MODULE is a name as `import` takes it, not a file: "
            f"{Path(module_name).stem}:{function_name}, in the directory where it is"
        )
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"model {args.model!r}: {error}") from error
    except Exception as error:
        raise ValueError(f"model {args.model!r}: {module_name} {_raised(error)}") from error
    finally:
        sys.path.remove("")
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"model {args.model!r}: {module_name} has no function {function_name}")
    try:
        found = function()
    except Exception as error:
        raise ValueError(f"model {args.model!r} {_raised(error)}") from error
    if not (isinstance(found, tuple) and len(found) == 2):
        raise ValueError(f"model {args.model!r}: it must return a model and its example input")
    return found


def _known(name: str, batch: int, dtype: str, layout: str | None) -> tuple[nn.Module, Any]:
    if batch < 1:
        raise ValueError(f"--batch must be at least 1, but got {batch}")
    torch.manual_seed(0)
    memory_format = LAYOUTS[layout or "contiguous"]
    model = MODELS[name]().to(dtype=DTYPES[dtype])
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    images = torch.randn(batch, 3, IMAGE, IMAGE)
    return model, images.to(dtype=DTYPES[dtype], memory_format=memory_format)
