"""The command ``convext``, also ``python -m convext``, and its subcommands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

EXTRA = {
    "rich": ("rich", "cli"),
    "sklearn": ("scikit-learn", "cli"),
    "matplotlib": ("matplotlib", "bench"),
}
"""What the commands need beyond convext's own dependencies: module -> package, extra."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments, without the program's name; those of the process by default.

    Returns:
        0 if all is well; 1 if a check failed; 2 if the command could not be run at all.

    Raises:
        SystemExit: by argparse, for ``--help``, ``--version`` and wrong arguments.
    """
    try:
        return _run(argv)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        package, extra = EXTRA[error.name]
        print(
            f"convext: this needs {package}, which the extra '{extra}' brings: "
            f"pip install convext[{extra}]",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("convext: interrupted", file=sys.stderr)
        return 130


def _run(argv: Sequence[str] | None) -> int:
    import convext
    from convext import _C
    from convext.bench import cli as bench
    from convext.cli import compare, demo, explain, info, trace, verify

    parser = argparse.ArgumentParser(
        prog="convext",
        description="Native-accelerated 2D convolution for PyTorch.",
        epilog="The environment variables CONVEXT_CPU_ISA (generic, avx2, avx512, avx512_bf16) and "
        "CONVEXT_PLAN choose the kernels, CONVEXT_WORKSPACE_LIMIT bounds their working memory.",
    )
    parser.add_argument("--version", action="version", version=f"convext {convext.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for module in (info, explain, trace, compare, verify, demo, bench):
        module.add_parser(commands)
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # with the usage of the command that does not know them
        commands.choices.get(args.command, parser).error(
            f"unrecognized arguments: {' '.join(unknown)}"
        )
    args.arguments = list(sys.argv[1:] if argv is None else argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        _C.active_isa()
    except RuntimeError as error:  # one of the environment variables, which it names
        print(f"convext: {error}", file=sys.stderr)
        return 2
    code: int = args.run(args)
    return code
