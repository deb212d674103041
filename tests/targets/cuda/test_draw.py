"""Drawing on the device, in the emulator: every token is that of the definition."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simt import launch, run_kernel

from sdc.ir.drawing import COLDEST, draw, inverse_temperature, token_weights
from sdc.targets.cuda.kernels.draw import DrawToken
from sdc.targets.cuda.kernels.tables import SpreadShare
from sdc.targets.cuda.kernels.weigh import CUTS, LogitTops, TokenWeights, pieces_of

LIKELIEST = (0.0, 2.0**-60, 0.0)


class Draws:
    """The three kernels on rows of logits [n, width], of which ``vocab`` are tokens'."""

    def __init__(self, logits: np.ndarray, settings: list[tuple[float, float, float]], vocab: int) -> None:
        rows, width = logits.shape
        pieces, numbers = pieces_of(vocab), np.array(settings, np.float64)
        of_pieces = (rows, len(CUTS), pieces)
        tops = run_kernel(LogitTops(vocab, width).generate(), logits, out=[((rows, pieces), "int32")])
        out = [((rows, vocab), "float32"), (of_pieces, "int64"), (of_pieces, "int32")]
        self.weights, masses, counts = run_kernel(
            TokenWeights(vocab, width).generate(), logits, tops, numbers, out=out
        )
        own = [np.full((rows, vocab), 85, dtype) for dtype in (np.float32, np.int32)]
        tokens, position = np.zeros((rows, 1), np.int64), np.array(4)
        given = [self.weights, masses, counts, tops, numbers, tokens, position, *own]
        launch(DrawToken(vocab).generate(), given)
        assert position == 5
        self.tokens = tokens[:, 0].tolist()


def drawn(logits: np.ndarray, settings: list[tuple[float, float, float]]) -> list[int]:
    """Temperatures, top-p and uniform numbers for rows of logits [n, vocab]."""
    rows = [(inverse_temperature(t), p, u) if t else LIKELIEST for t, p, u in settings]
    return Draws(logits, rows, logits.shape[1]).tokens


@pytest.mark.parametrize("vocab", [1, 3, 1024, 1025, 5000])
@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0, 12.0])
def test_tokens_are_those_of_the_definition(vocab, spread) -> None:
    random = np.random.default_rng(vocab)
    top_ps = [1e-12, 0.05, 0.5, 0.9, 0.999, 1.0, 1.0, 0.0]
    logits = (spread * random.normal(size=(len(top_ps), vocab))).astype(np.float32)
    settings = [(0.8, p, random.random()) if p else (0.0, 1.0, 0.0) for p in top_ps]
    want = [draw(row, *s) if s[0] else row.argmax() for row, s in zip(logits, settings, strict=True)]
    assert drawn(logits, settings) == want


def test_the_ends_of_the_uniform_numbers_and_ties() -> None:
    random, uniforms = np.random.default_rng(3), [0.0, 0.25, 1 - 2.0**-53]
    logits = np.round(random.normal(size=(6, 2100)) * 2).astype(np.float32)  # many are equal
    settings = [(1.3, p, u) for p in (0.3, 1.0) for u in uniforms]
    assert drawn(logits, settings) == [draw(row, *s) for row, s in zip(logits, settings, strict=True)]
    equal = np.zeros((3, 2048), np.float32)
    equal[:, ::2] = -80.0
    made = drawn(equal, [(1.0, 0.25, u) for u in uniforms])
    assert made == [1 + 2 * int(256 * u) for u in uniforms]  # the first quarter of them
    assert drawn(-1 - np.abs(logits[:1]), [(0.0, 1.0, 0.0)]) == [(-1 - np.abs(logits[0])).argmax()]


@pytest.mark.parametrize("temperature", [1e-45, COLDEST, 1e-3, 1e10])
def test_extreme_temperatures(temperature) -> None:
    logits = (9 * np.random.default_rng(8).normal(size=(3, 1500))).astype(np.float32)
    settings = [(temperature, p, 0.7) for p in (1e-12, 0.5, 1.0)]
    assert drawn(logits, settings) == [draw(row, *s) for row, s in zip(logits, settings, strict=True)]
    assert (drawn(logits, settings) == logits.argmax(1)).all() or temperature > 1


def test_weights_are_those_of_the_definition_to_the_bit() -> None:
    logits = (20 * np.random.default_rng(5).normal(size=(1, 3000))).astype(np.float32)
    logits[0, :4] = [-3e38, -1e-40, 0.0, 70.0]
    made = Draws(logits, [(inverse_temperature(0.6), 1.0, 0.5)], 3000)
    np.testing.assert_array_equal(made.weights[0], token_weights(logits[0], 0.6))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_logit_gives_no_token_and_leaves_other_rows_alone(bad) -> None:
    logits = np.random.default_rng(7).normal(size=(4, 1500)).astype(np.float32)
    settings = [(0.9, 0.9, 0.3), (0.9, 1.0, 0.3), (0.0, 1.0, 0.0), (0.9, 0.9, 0.3)]
    logits[:3, 1499] = bad
    assert drawn(logits, settings) == [-1, -1, -1, draw(logits[3], *settings[3])]


@pytest.mark.parametrize("workers", [2, 3])
def test_shares_are_put_together_and_what_fills_them_up_is_never_drawn(workers) -> None:
    vocab = 100
    logits = (-50 - np.random.default_rng(6).random((2, vocab))).astype(np.float32)  # zeros would be likelier
    rows = -(-vocab // workers)
    shares = np.pad(logits, ((0, 0), (0, workers * rows - vocab))).reshape(2, workers, rows)
    kernel, out = SpreadShare(rows, workers).generate(), [((2, workers * rows), "float32")]
    numbers = np.arange(workers, dtype=np.int32)[:, None]
    parts = [
        run_kernel(kernel, np.ascontiguousarray(shares[:, w]), numbers[w], out=out) for w in range(workers)
    ]
    whole = np.sum(parts, 0, np.float32)
    np.testing.assert_array_equal(whole[:, :vocab], logits)
    settings = [(1.0, 1.0, 0.99), (1.0, 0.6, 0.99)]
    made = Draws(whole, [(inverse_temperature(t), p, u) for t, p, u in settings], vocab)
    assert made.tokens == [draw(row, *s) for row, s in zip(logits, settings, strict=True)]
