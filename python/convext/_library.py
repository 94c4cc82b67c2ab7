"""Finding and loading the compiled half of convext.

Two files are built next to each other: ``libconvext_ops`` (the operators, without Python) and
``_C`` (plans, kernel table, build information). Loading the first registers
``torch.ops.convext.conv2d`` and ``torch.ops.convext.conv2d_backward``. A third,
``libconvext_cuda``, is built where nvcc is, holds the kernels of CUDA tensors, and is loaded where
torch has CUDA.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import torch

# The stable ABI the library is built against (TORCH_TARGET_VERSION): older torch cannot load it.
OLDEST_TORCH = (2, 10)

# Why there are no kernels for CUDA tensors; empty where there are.
cuda_problem = "convext is not imported yet"


def check_torch_version(version: str) -> None:
    """Raises ``ImportError`` if ``version`` of torch is older than the ABI convext is built for."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_TORCH:
        raise ImportError(
            f"convext needs torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer, "
            f"but torch {version} is installed"
        )


def _library_in(directory: Path, name: str) -> Path | None:
    for library in sorted(directory.glob(f"{name}.*")):
        if library.suffix in (".so", ".dylib", ".dll"):
            return library
    return None


def find_library(package_path: list[str]) -> Path:
    """The path of ``libconvext_ops``: beside ``_C``, or in a directory of the package.

    An editable install keeps the Python files in the source tree and the compiled ones in
    site-packages, so the directory of this file alone is not enough; the finder of ``_C`` knows.
    """
    directories = [Path(directory) for directory in package_path]
    extension = importlib.util.find_spec("convext._C")
    if extension is not None and extension.origin is not None:
        directories.insert(0, Path(extension.origin).parent)
    for directory in directories:
        library = _library_in(directory, "libconvext_ops")
        if library is not None:
            return library
    places = ", ".join(dict.fromkeys(str(directory) for directory in directories))
    raise ImportError(
        f"convext's compiled library libconvext_ops was not found in {places}. "
        "The package has to be built: `pip install .` in its source tree, or install a wheel."
    )


def load(package_path: list[str]) -> ModuleType:
    """Registers the operators and returns the extension module ``convext._C``."""
    check_torch_version(torch.__version__)
    library = find_library(package_path)
    try:
        torch.ops.load_library(str(library))
        return importlib.import_module("convext._C")
    except (OSError, ImportError) as error:
        raise ImportError(
            f"convext's compiled library {library.name} could not be loaded "
            f"with torch {torch.__version__}: {error}"
        ) from error


def load_cuda(package_path: list[str], *, without_torch_cuda: bool = False) -> str:
    """Loads the kernels of CUDA tensors, if they were built and torch has CUDA.

    Args:
        package_path: as for :func:`find_library`.
        without_torch_cuda: load them into a torch without CUDA too: they cannot run there, but
            their plans can be looked at.

    Returns:
        Empty, or why there are none, in words for users.
    """
    library = _library_in(find_library(package_path).parent, "libconvext_cuda")
    if library is None:
        return "not built"
    if torch.version.cuda is None and not without_torch_cuda:
        return f"built, but not loaded: torch {torch.__version__} is a build without CUDA"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"built, but {library.name} could not be loaded: {error}"
    return ""


def package_version() -> str:
    """The version in the package's metadata."""
    try:
        return importlib.metadata.version("convext")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
