"""How a cell is measured: pairs, operands, verification, the environment."""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benching import EFFORT, PEAKS, TINY

from convext import _C
from convext.bench import arguments, environment, operands, peaks, timing, verify
from convext.bench.shapes import ConvShape


class TestTiming:
    def test_pairs_alternate_and_ratio_is_first_over_second(self) -> None:
        now = 0.0
        order: list[str] = []
        indices: list[int] = []

        def takes(name: str, seconds: float) -> Any:
            def function(index: int) -> None:
                nonlocal now
                now += seconds
                order.append(name)
                indices.append(index)

            return function

        pairs = timing.time_pairs(takes("A", 3.0), takes("B", 2.0), EFFORT, lambda: now)
        assert "".join(order[-8:]) == "ABBAABBA"
        assert indices == list(range(len(order)))
        assert len(order) == 8  # calls this long are not repeated to warm up
        assert (pairs.first, pairs.second, pairs.calls_per_sample) == ([3.0] * 4, [2.0] * 4, 1)
        assert pairs.ratio == timing.Spread(1.5, 1.5, 1.5, 1.5, 1.5)

    def test_short_calls_are_sampled_together(self) -> None:
        now = 0.0

        def step(index: int) -> None:
            nonlocal now
            now += 2.0**-20

        pairs = timing.time_pairs(step, step, EFFORT, lambda: now)
        assert pairs.calls_per_sample == math.ceil(timing.MIN_SAMPLE_S * 2**20)
        assert pairs.first == [2.0**-20] * 4

    def test_number_of_pairs_is_even_and_bounded(self) -> None:
        effort = timing.Effort(budget_s=1.0, min_pairs=4, max_pairs=20)
        assert [effort.pairs(seconds) for seconds in (10.0, 0.11, 1e-6)] == [4, 8, 20]

    def test_other_dtypes_take_less(self) -> None:
        assert timing.effort_for("float32") is timing.FULL
        assert timing.effort_for("float16") is timing.REDUCED
        assert timing.effort_for("float16", quick=True) is timing.QUICK
        assert timing.REDUCED.min_pairs == 2

    def test_spread(self) -> None:
        assert timing.Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == timing.Spread(3.0, 2.0, 4.0, 1.0, 5.0)


class TestOperands:
    def test_rotation_exceeds_the_cache_with_memory_of_its_own(self) -> None:
        made = operands.make_operands(TINY, 2, torch.float32)
        made = made.to(memory_format=torch.channels_last)
        sets = operands.rotation(made, cache_bytes=4 * made.nbytes())
        assert len(sets) == 8
        assert len({one.input.data_ptr() for one in sets}) == 8
        for one in sets:
            assert torch.equal(one.weight, made.weight)
            assert one.input.is_contiguous(memory_format=torch.channels_last)
        assert len(operands.rotation(made, cache_bytes=0)) == 1
        assert len(operands.rotation(made, cache_bytes=1 << 40)) == operands.MAX_SETS

    def test_rotation_is_bounded_in_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = operands.make_operands(TINY, 2, torch.float32)
        monkeypatch.setattr(operands, "MAX_SET_BYTES", 3 * made.nbytes())
        assert len(operands.rotation(made, cache_bytes=1 << 40)) == 3

    @pytest.mark.parametrize("autograd", [False, True], ids=["op", "autograd"])
    @pytest.mark.parametrize("mode", operands.PADDING_MODES)
    @pytest.mark.parametrize("peer", operands.PEERS)
    @pytest.mark.parametrize("pass_", operands.PASSES)
    def test_calls_compute_what_autograd_does(
        self, peer: str, pass_: str, mode: str, autograd: bool
    ) -> None:
        shape = dataclasses.replace(TINY, padding=(2, 1))
        made = operands.make_operands(shape, 2, torch.float64)
        leaves = made.clone()
        leaves.input.requires_grad_()
        leaves.weight.requires_grad_()
        layer = torch.nn.Conv2d(
            *(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), 2), bias=False, padding_mode=mode
        )
        output = torch.func.functional_call(layer, {"weight": leaves.weight}, (leaves.input,))
        output.backward(made.grad_output)
        right = {
            "forward": (output,),
            "input_grad": (leaves.input.grad, None, None),
            "weight_grad": (None, leaves.weight.grad, None),
            "backward": (leaves.input.grad, leaves.weight.grad, None),
        }[pass_]
        call = operands.make_call(peer, pass_, shape, mode, through_autograd=autograd)
        with torch.no_grad():
            call(made)
            results = call(made)  # a graph serves again and again
        assert [found is None for found in results] == [value is None for value in right]
        for found, value in zip(results, right, strict=True):
            if value is not None:
                torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


class TestVerify:
    def damaged(self, monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
        """Have convext's backward results pass through ``damage``."""
        sound = operands.make_call

        def make_call(peer: str, pass_: str, shape: ConvShape, mode: str) -> operands.Call:
            call = sound(peer, pass_, shape, mode)
            if peer == "torch" or pass_ == "forward":
                return call
            return lambda made: (call(made)[0], damage(call(made)[1]), None)  # type: ignore[return-value]

        monkeypatch.setattr(verify, "make_call", make_call)

    def check(self, dtype: torch.dtype) -> verify.Errors:
        made = operands.make_operands(TINY, 2, dtype)
        return verify.verify(TINY, made, verify.reference(TINY, made))

    @pytest.mark.parametrize("dtype", operands.DTYPES.values(), ids=operands.DTYPES)
    def test_right_results_pass(self, dtype: torch.dtype) -> None:
        errors = self.check(dtype)
        limit = verify.LIMIT_IN_EPS[dtype] * torch.finfo(dtype).eps
        assert set(errors.convext) == set(verify.TENSORS)
        assert all(error <= limit for error in errors.convext.values())

    def test_wrong_results_do_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def one_wrong(grad: torch.Tensor) -> torch.Tensor:
            grad = grad.clone()
            grad.view(-1)[5] += 1e-4 * grad.abs().max()
            return grad

        def with_nan(grad: torch.Tensor) -> torch.Tensor:
            grad = grad.clone()
            grad.view(-1)[5] = math.nan
            return grad

        def raises(grad: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel")

        damages = {
            one_wrong: "grad_weight: error",
            with_nan: "grad_weight: error nan",
            torch.neg: "grad_weight: error 2 of",
            torch.Tensor.double: "grad_weight: dtype",
            lambda grad: grad[..., :-1]: "grad_weight: shape",
            lambda grad: grad.to(memory_format=torch.channels_last): "grad_weight: strides",
            raises: "raised: no kernel",
        }
        for damage, words in damages.items():
            with monkeypatch.context() as patch:
                self.damaged(patch, damage)
                with pytest.raises(verify.VerificationError, match=words):
                    self.check(torch.float32)


class TestEnvironment:
    def test_commit_is_that_of_the_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def git(*words: str) -> str:
            asked.append(words)
            return {"ls-files": "environment.py", "rev-parse": "abc"}.get(words[2], "M file")

        monkeypatch.setattr(environment, "_git", git)
        assert environment._commit() == "abc-dirty"
        source = str(Path(environment.__file__).resolve().parent)
        assert {words[:2] for words in asked} == {("-C", source)}
        monkeypatch.setattr(environment, "_git", lambda *words: "")
        assert environment._commit() == ""

    def test_peaks_are_measured(self) -> None:
        found = _C.measure_peaks(1, 1 << 16)
        assert found.keys() == PEAKS.keys()
        assert all(value > 0 for value in found.values())
        for threads, size in ((0, 1 << 16), (2, 1)):
            with pytest.raises(ValueError, match=r"threads|buffer_bytes"):
                _C.measure_peaks(threads, size)

    def test_shares(self) -> None:
        found = peaks.shares(PEAKS, "bfloat16", gigaflops=16.0, nbytes=10**9, seconds=0.5)
        assert found == {"fma": 0.5, "bandwidth": 0.125}
        assert peaks.shares(PEAKS, "float64", 16.0, 10**9, 0.5)["fma"] == 1.0


def test_an_option_is_described_once() -> None:
    parser = argparse.ArgumentParser()
    arguments.add(parser, "--quick", quick="other words")
    assert "other words" in parser.format_help()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_warm_malloc_keeps_pages() -> None:
    """Page faults of filling a fresh 64 MB block: thousands by default, next to none when warm."""
    program = """
import resource, sys, torch
from convext.bench.environment import set_malloc
print(set_malloc(sys.argv[1]))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill(times):
    for _ in range(times):
        torch.empty(16 << 20).fill_(1)
fill(16)  # the heap grows until an aligned block fits between what malloc holds back
before = faults()
fill(4)
print(faults() - before)
"""
    found = {}
    for mode in ("warm", "default"):
        done = subprocess.run(
            [sys.executable, "-c", program, mode], capture_output=True, text=True, check=True
        )
        said, faults = done.stdout.splitlines()
        assert said.startswith(mode)
        found[mode] = int(faults)
    assert found["warm"] < 100
    if "[always]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        assert found["default"] > 4 * (64 << 20) // 65536
