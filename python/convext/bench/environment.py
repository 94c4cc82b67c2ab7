"""What a figure depends on besides the code: machine, versions, memory allocator, load."""

from __future__ import annotations

import ctypes
import datetime
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import convext
from convext import _C

# glibc's <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_INT_MAX = 2**31 - 1

# Settings that change what is measured.
_PREFIXES = (
    *("CONVEXT_", "ATEN_", "ONEDNN_", "DNNL_", "MKL_"),
    *("OMP_", "GOMP_", "KMP_"),
    *("MALLOC_", "GLIBC_", "LD_PRELOAD"),
)

#: What puts both peers into one instruction set: convext's kernels, then those of torch's oneDNN,
#: its own and MKL's (on Intel's CPUs). All are read once, when torch is imported or first called.
ISA_VARIABLES = {
    name: {
        "CONVEXT_CPU_ISA": name,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "ATEN_CPU_CAPABILITY": aten,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
    }
    for name, onednn, aten, mkl in (
        ("avx512_bf16", "AVX512_CORE_BF16", "avx512", "AVX512"),
        ("avx512", "AVX512_CORE", "avx512", "AVX512"),
        ("avx2", "AVX2", "avx2", "AVX2"),
        ("generic", "SSE41", "default", "SSE4_2"),
    )
}

_FALLBACK_CACHE_BYTES = 32 << 20

#: Above this many cores busy with other work, figures are not worth keeping.
NOISE_CORES = 0.1


def enter_isa(isa: str, arguments: Sequence[str]) -> None:
    """Start over in a process whose environment holds both peers to an instruction set.

    Returns if this one's does. Otherwise the process is replaced by ``convext`` with the given
    arguments, before it has done anything.

    Raises:
        ValueError: convext was not built for the instruction set, or this CPU lacks it.
    """
    wanted = ISA_VARIABLES[isa]
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    if isa not in _C.isas():
        raise ValueError(f"--isa {isa}: can run here: {', '.join(_C.isas())}")
    sys.stdout.flush()
    command = [sys.executable, "-m", "convext", *arguments]
    os.execve(sys.executable, command, {**os.environ, **wanted})


def set_malloc(mode: str) -> str:
    """Choose what becomes of freed memory, for the rest of the process; says what is in force.

    ``"warm"`` keeps pages with the process, so that neither peer pays page faults for a fresh
    output on every call. glibc maps a large block anew each time: that is what an eager user meets,
    and it blurs the kernels. (Its mmap threshold cannot be raised over 32 MiB, so mapping is turned
    off altogether.) ``"default"`` changes nothing.
    """
    if mode == "default":
        return "default"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return "default: this C library has no mallopt"
    if mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _INT_MAX):
        return "warm: M_MMAP_MAX=0, M_TRIM_THRESHOLD=2147483647"
    return "unknown: mallopt refused"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def cache_bytes() -> int:
    """Size of the last-level cache, 32 MiB where the system does not say."""
    sizes = [_FALLBACK_CACHE_BYTES]
    texts = [
        _read(str(path)) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    found = [int(text[:-1]) * units[text[-1]] for text in texts if text and text[-1] in units]
    return max(found or sizes)


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match.group(1) if match else platform.processor() or platform.machine()


def _cpu_family() -> str:
    values = [
        re.search(rf"^{key}\s*:\s*(\S+)$", _read("/proc/cpuinfo"), re.MULTILINE)
        for key in ("vendor_id", "cpu family", "model")
    ]
    return " ".join(match.group(1) for match in values if match)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _commit() -> str:
    """Commit of the checkout that convext is imported from, ``-dirty`` if tracked files changed.

    Empty where convext is installed: the repository around it, if any, is another project's.
    """
    source = Path(__file__).resolve()
    inside = ("-C", str(source.parent))
    if not _git(*inside, "ls-files", source.name):
        return ""
    commit = _git(*inside, "rev-parse", "HEAD")
    if commit and _git(*inside, "status", "--porcelain", "--untracked-files=no"):
        commit += "-dirty"
    return commit


def _library_sha256() -> str:
    """Fingerprint of the compiled ops library: tells builds apart that a commit does not."""
    for directory in map(Path, convext.__path__):
        for path in sorted(directory.glob("libconvext_ops.*")):
            return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return ""


def without_directories(argument: str) -> str:
    """An argument with every path in it cut down to its last part.

    A file of figures tells how they were made, not where its machine keeps things. The argument may
    be ``--option=value``, and a value a list separated by commas.
    """
    option, equals, value = (
        argument.partition("=") if argument.startswith("--") else ("", "", argument)
    )
    parts = [Path(part).name if os.sep in part else part for part in value.split(",")]
    return option + equals + ",".join(parts)


def describe(malloc: str, arguments: list[str]) -> dict[str, Any]:
    """The environment as it stands, ready for JSON.

    Args:
        malloc: what ``set_malloc`` said.
        arguments: the command line after ``convext``.
    """
    onednn = re.search(r"(?:MKL-DNN|oneDNN) v(\S+)", torch.__config__.show())
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["convext", *map(without_directories, arguments)]),
        "commit": _commit(),
        "convext": {
            "version": convext.__version__,
            "isa": _C.active_isa(),
            "library_sha256": _library_sha256(),
            "build": dict(_C.build_info()),
        },
        "torch": {
            "version": torch.__version__,
            "onednn": onednn.group(1) if onednn else "",
            "mkldnn_enabled": bool(onednn and torch.backends.mkldnn.enabled),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "cpu": {
            "model": _cpu_model(),
            "family": _cpu_family(),
            "logical_cores": os.cpu_count(),
            "last_level_cache_bytes": cache_bytes(),
            "features": sorted(name for name, has in _C.cpu_features().items() if has),
        },
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "malloc": malloc,
        "transparent_hugepage": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "variables": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_PREFIXES)
        },
    }


def _busy_seconds() -> float | None:
    """CPU seconds all of the machine's processes have used since it started; None if unknown."""
    fields = _read("/proc/stat").split("\n", 1)[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def load_average() -> float:
    """The machine's load average over the last minute."""
    return os.getloadavg()[0]


@dataclass
class LoadWatch:
    """How many cores other processes kept busy since the watch was made.

    A benchmark on a machine that does something else measures that too. The load average cannot
    tell: it counts the benchmark itself.
    """

    load_at_start: float
    _busy: float | None
    _own: float
    _wall: float

    @staticmethod
    def start() -> LoadWatch:
        """Begin watching."""
        return LoadWatch(load_average(), _busy_seconds(), _own_seconds(), os.times().elapsed)

    def seconds(self) -> float:
        """How long it has been watching."""
        return os.times().elapsed - self._wall

    def cores_of_others(self) -> float | None:
        """Cores busy with other processes, on average; None where the system does not say."""
        busy, wall = _busy_seconds(), self.seconds()
        if busy is None or self._busy is None or wall <= 0:
            return None
        return max(0.0, (busy - self._busy - (_own_seconds() - self._own)) / wall)

    def as_dict(self) -> dict[str, float | None]:
        """What was seen so far, for JSON."""
        others = self.cores_of_others()
        return {
            "load_average_at_start": self.load_at_start,
            "cores_busy_with_others": None if others is None else round(others, 3),
        }
