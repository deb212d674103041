"""The compiled choice of a token: the sampler's own, for every distribution, size and instruction set."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tvm
from helpers.cpu_kernels import Kernels, every_own_isa

from sdc.runtime.sampling import Sampler
from sdc.targets.cpu.kernels.sample import sample

SIZES = [1, 3, 255, 256, 1027, 5000]
DRAWS = 200


class Chooser:
    """The compiled function on arrays."""

    def __init__(self, vocab: int, isa) -> None:
        self.kernels = kernels(vocab, isa)

    def __call__(self, logits: np.ndarray, temperature: float, top_p: float, uniform: float) -> int:
        return self.draws(logits, temperature, top_p, [uniform])[0]

    def draws(self, logits: np.ndarray, temperature: float, top_p: float, uniforms: list[float]) -> list[int]:
        """A token for every uniform number."""
        function, given = self.kernels.function("kernel"), tvm.runtime.tensor(logits)
        tokens = []
        for uniform in uniforms:
            token = tvm.runtime.tensor(np.zeros(1, np.int64))
            function(given, tvm.runtime.tensor(np.array([temperature, top_p, uniform])), token)
            tokens.append(int(token.numpy()[0]))
        return tokens


@cache
def kernels(vocab: int, isa) -> Kernels:
    return Kernels({"kernel": sample(vocab, isa)}, isa)


def logits_of(vocab: int, spread: float, seed: int = 1) -> np.ndarray:
    return (spread * np.random.default_rng(seed).normal(size=vocab)).astype(np.float32)


@every_own_isa
@pytest.mark.parametrize("vocab", SIZES)
def test_temperature_0_takes_the_first_of_the_likeliest(vocab, isa) -> None:
    choose = Chooser(vocab, isa)
    for seed in range(20):
        logits = np.round(logits_of(vocab, 2.0, seed))  # many are equal
        assert choose(logits, 0.0, 1.0, 0.5) == logits.argmax()
        assert choose(logits - 1e30, 0.0, 1.0, 0.5) == (logits - np.float32(1e30)).argmax()


@every_own_isa
@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_told(vocab, bad, isa) -> None:
    choose = Chooser(vocab, isa)
    for at in {0, vocab // 2, vocab - 1}:
        logits = logits_of(vocab, 1.0)
        logits[at] = bad
        assert [choose(logits, t, 0.9, 0.5) for t in (0.0, 1.0)] == [-1, -1]


@every_own_isa
@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 0.999, 1.0])
def test_draws_are_the_samplers(vocab, top_p, isa) -> None:
    choose = Chooser(vocab, isa)
    for spread in (0.0, 0.1, 2.0, 12.0):
        random = np.random.default_rng(5)
        uniforms = [random.random() for _ in range(DRAWS)]
        draws = choose.draws(logits_of(vocab, spread), 0.8, top_p, uniforms)
        assert draws == sampled(vocab, spread, top_p)


@cache
def sampled(vocab: int, spread: float, top_p: float) -> list[int]:
    """What the sampler draws, the same for every instruction set."""
    sampler, logits = Sampler(0.8, top_p, seed=5), logits_of(vocab, spread)
    return [sampler(logits) for _ in range(DRAWS)]


@every_own_isa
@pytest.mark.parametrize("uniform", [1e-12, 0.25, 1.0 - 2.0**-53])
def test_of_equal_tokens_as_many_as_are_needed_are_drawn_from(uniform, isa) -> None:
    logits = np.zeros(1024, np.float32)
    logits[::2] = -80.0
    choose = Chooser(1024, isa)
    assert choose(logits, 1.0, 0.25, uniform) == 1 + 2 * int(128 * uniform)
    assert choose(logits, 1.0, 1.0, uniform) == 1 + 2 * int(512 * uniform)


@every_own_isa
@pytest.mark.parametrize("temperature", [1e-45, 1e-10, 1e10])
@pytest.mark.parametrize("top_p", [1e-12, 0.5, 1.0])
def test_extreme_temperatures(temperature, top_p, isa) -> None:
    logits = logits_of(1000, 3.0)
    found = Chooser(1000, isa)(logits, temperature, top_p, 0.5)
    assert found == logits.argmax() if temperature < 1 else 0 <= found < 1000
