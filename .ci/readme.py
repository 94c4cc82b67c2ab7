"""Run every command of a Markdown file, in order, so that what it says stays true.

Blocks fenced as `console` hold commands on the lines that start with "$ "; blocks fenced as
`python` are whole scripts. A block whose fence says `no-run` is only named.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys

from markdown_it import MarkdownIt


def commands(text: str) -> list[tuple[str, list[str] | None]]:
    """Return what there is to run: a title, and the arguments to start (None: not to be run)."""
    found: list[tuple[str, list[str] | None]] = []
    for token in MarkdownIt().parse(text):
        language, _, note = token.info.strip().partition(" ")
        if token.type != "fence" or language not in ("console", "python"):
            continue
        if language == "python":
            steps = [("python\n" + token.content, [sys.executable, "-c", token.content])]
        else:
            lines = [line[2:] for line in token.content.splitlines() if line.startswith("$ ")]
            steps = [(line, ["bash", "-euo", "pipefail", "-c", line]) for line in lines]
        found += [(title, None if note == "no-run" else step) for title, step in steps]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--skip", action="append", default=[], help="a command that runs elsewhere")
    args = parser.parse_args()

    ran = 0
    for title, command in commands(args.file.read_text(encoding="utf-8")):
        if command is None or title in args.skip:
            print(f"-- not run here: {title}", flush=True)
            continue
        print(f"$ {title}", flush=True)
        result = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if result.returncode:
            print(f"{args.file}: this failed with exit code {result.returncode}: {title}")
            return 1
        ran += 1
    if not ran:
        print(f"{args.file}: found nothing to run")
        return 1
    print(f"{args.file}: {ran} commands ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
