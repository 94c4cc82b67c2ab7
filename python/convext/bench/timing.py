"""Interleaved pairs: the two peers in turn, so that what the machine does in between hits both."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

# Shorter calls are sampled several at a time, so that the clock's cost stays below a percent.
MIN_SAMPLE_S = 100e-6

# Calls before the first sample; one will do where it takes long.
WARM_UP_CALLS = 3
LONG_CALL_S = 20e-3

# Where a pair takes longer, nothing is left to warm up, and the first calls count.
LONG_PAIR_S = 1.0


@dataclass(frozen=True)
class Effort:
    """How long a cell is measured: ``budget_s`` of samples, within bounds on the number of pairs.

    The bounds are even, so that each peer goes first equally often.
    """

    budget_s: float
    min_pairs: int
    max_pairs: int

    def pairs(self, pair_s: float) -> int:
        """Pairs to take where one takes ``pair_s`` seconds."""
        wanted = int(self.budget_s / pair_s) if pair_s > 0 else self.max_pairs
        return max(self.min_pairs, min(wanted // 2 * 2, self.max_pairs))


#: ``wall`` is what users wait for. ``cpu``, the CPU seconds of all threads, leaves out the time a
#: busy machine gives to others: for one thread it tells the kernels apart where wall time is noise.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

FULL = Effort(budget_s=0.25, min_pairs=4, max_pairs=40)
# Where torch has no kernels of its own (float16 on most CPUs), one call takes seconds.
REDUCED = Effort(budget_s=0.15, min_pairs=2, max_pairs=20)
QUICK = Effort(budget_s=0.06, min_pairs=2, max_pairs=20)


def effort_for(dtype: str, quick: bool = False) -> Effort:
    """How long the cells of a dtype are measured: float32, which has the most of them, in full."""
    return QUICK if quick else FULL if dtype == "float32" else REDUCED


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and extremes of a list of samples."""

    median: float
    q1: float
    q3: float
    min: float
    max: float

    @staticmethod
    def of(samples: Sequence[float]) -> Spread:
        """The spread of at least two samples."""
        q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
        return Spread(median, q1, q3, min(samples), max(samples))

    def as_dict(self, scale: float = 1.0) -> dict[str, float]:
        """The five values times ``scale``, to five significant digits, for JSON."""
        return {key: float(f"{value * scale:.5g}") for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Pairs:
    """Seconds a call of the first and second peer took, pair by pair."""

    first: list[float]
    second: list[float]
    calls_per_sample: int

    @property
    def ratio(self) -> Spread:
        """first / second, taken pair by pair: above 1 the second peer is the quicker one."""
        return Spread.of([a / b for a, b in zip(self.first, self.second, strict=True)])


def time_pairs(
    first: Callable[[int], object],
    second: Callable[[int], object],
    effort: Effort,
    clock: Callable[[], float] = time.perf_counter,
) -> Pairs:
    """Time two callables in interleaved pairs A B, B A, A B, ...

    Each is called with a number that grows by one from call to call over both, to choose operands
    by. The first calls, where a library builds and caches what it needs, tell how many pairs the
    effort allows; they are not counted unless they take long.
    """
    calls = 0

    def sample(function: Callable[[int], object], count: int) -> float:
        nonlocal calls
        start = clock()
        for index in range(calls, calls + count):
            function(index)
        seconds = clock() - start
        calls += count
        return seconds / count

    def estimate(function: Callable[[int], object]) -> float:
        seconds = sample(function, 1)
        again = WARM_UP_CALLS - 1 if seconds < LONG_CALL_S else 0
        return min([seconds, *(sample(function, 1) for _ in range(again))])

    collecting = gc.isenabled()
    gc.disable()
    try:
        estimates = [estimate(first), estimate(second)]
        quickest = max(min(estimates), 1e-9)
        per_sample = max(1, math.ceil(MIN_SAMPLE_S / quickest))
        pairs = Pairs([], [], per_sample)
        if sum(estimates) >= LONG_PAIR_S:
            pairs = Pairs(estimates[:1], estimates[1:], per_sample)
        for index in range(len(pairs.first), effort.pairs(per_sample * sum(estimates))):
            turns = [(first, pairs.first), (second, pairs.second)]
            for function, samples in turns if index % 2 == 0 else reversed(turns):
                samples.append(sample(function, per_sample))
    finally:
        if collecting:
            gc.enable()
    return pairs
