"""Finding and loading the compiled half, and what is said when that fails."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convext
from convext import _library


def test_the_library_lies_beside_the_extension() -> None:
    library = _library.find_library(list(convext.__path__))
    assert library.is_file()
    assert library.parent == Path(convext._C.__file__).parent
    assert str(library) in torch.ops.loaded_libraries


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cu117", "nightly"])
def test_old_torch_is_refused(version: str) -> None:
    with pytest.raises(ImportError, match=rf"torch 2\.10 or newer, but torch {version[:3]}"):
        _library.check_torch_version(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0a0"])
def test_new_torch_is_welcome(version: str) -> None:
    _library.check_torch_version(version)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"libconvext_ops was not found in .*pip install"
    ) as error:
        _library.find_library([str(tmp_path)])
    assert str(tmp_path) in str(error.value)


def test_a_broken_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "libconvext_ops.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(_library, "find_library", lambda path: broken)
    with pytest.raises(ImportError, match=r"libconvext_ops\.so could not be loaded with torch"):
        _library.load([str(tmp_path)])


def test_what_is_missing_for_cuda_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "find_library", lambda path: tmp_path / "libconvext_ops.so")
    assert _library.load_cuda([]) == "not built"
    broken = tmp_path / "libconvext_cuda.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _library.load_cuda([]) == (
        f"built, but not loaded: torch {torch.__version__} is a build without CUDA"
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert _library.load_cuda([]).startswith("built, but libconvext_cuda.so could not be loaded")


def test_version_is_the_packages() -> None:
    assert convext.__version__ == importlib.metadata.version("convext")


def test_contributing_tells_where_every_algorithm_is() -> None:
    root = Path(__file__).parent.parent
    text = (root / "CONTRIBUTING.md").read_text()
    table = text[text.index("| algorithm |") : text.index("## Adding a kernel")]
    rows = re.findall(r"^\| (`[a-z0-9_`, ]+) \| (.*) \|$", table, re.M)
    named = {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row[0])}
    assert named == {kernel["algorithm"] for kernel in convext._C.kernels()}
    files = [file for row in rows for file in re.findall(r"`(csrc/\S+)`", row[1])]
    assert len(files) >= len(rows)
    assert [file for file in files if not (root / file).is_file()] == []


def test_public_names() -> None:
    for name in convext.__all__:
        assert getattr(convext, name) is not None
    assert (Path(convext.__file__).parent / "py.typed").is_file()


def test_importing_is_quiet_and_leaves_settings_alone() -> None:
    script = (
        "import torch; before = (torch.get_num_threads(), torch.get_default_dtype(), "
        "torch.are_deterministic_algorithms_enabled(), torch.initial_seed()); "
        "import convext; after = (torch.get_num_threads(), torch.get_default_dtype(), "
        "torch.are_deterministic_algorithms_enabled(), torch.initial_seed()); "
        "assert after == before"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
