"""The machine's measured roofs, and what share of them a measured time comes to."""

from __future__ import annotations

from collections.abc import Sequence

from convext import _C

Peaks = dict[str, float]

# A copy between buffers this many times the last-level cache comes from memory and goes there.
_CACHES = 4
_MAX_BUFFER_BYTES = 1 << 30


def measure(threads: Sequence[int], cache_bytes: int) -> dict[int, Peaks]:
    """Peaks for each number of threads, in GF/s and GB/s: some tenths of a second each.

    FMAs without a memory access in the instruction set that convext runs in, and a copy past the
    cache, whose bytes are counted when read and when written.
    """
    size = min(_CACHES * cache_bytes, _MAX_BUFFER_BYTES)
    return {
        count: {key: float(f"{value:.4g}") for key, value in _C.measure_peaks(count, size).items()}
        for count in threads
    }


def arithmetic(peaks: Peaks, dtype: str) -> float:
    """The peak of a dtype's arithmetic in GF/s: that of half types is float32's."""
    return peaks["float64_gflops" if dtype == "float64" else "float32_gflops"]


def shares(
    peaks: Peaks, dtype: str, gigaflops: float, nbytes: int, seconds: float
) -> dict[str, float]:
    """A time as shares of the peaks: nominal arithmetic per second, and bytes per second."""
    return {
        "fma": round(gigaflops / seconds / arithmetic(peaks, dtype), 3),
        "bandwidth": round(nbytes / 1e9 / seconds / peaks["copy_gbytes"], 3),
    }
