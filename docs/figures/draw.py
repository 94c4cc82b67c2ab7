"""Draws every figure of the documentation: `python docs/figures/draw.py FOLDER`.

A figure is a module beside this one with a function `draw() -> Figure`; its file has the module's
name. Nothing is kept in the repository, so a figure shows what the code does today.
"""

from __future__ import annotations

import importlib
import pathlib
import sys

import matplotlib

FOLDER = pathlib.Path(__file__).resolve().parent
HELPERS = ("draw", "style")


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


def all_figures(folder: pathlib.Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import style

    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(style.RC):
        for name in names():
            figure = importlib.import_module(name).draw()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    all_figures(pathlib.Path(sys.argv[1]))
