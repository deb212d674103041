"""Both attention schedules in the emulator against the reference, garbage beyond the last token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from helpers.simt import run_kernel

from sdc.ir.ops import OPS
from sdc.targets.cuda.kernels.attention import (
    attention_mix,
    attention_output,
    attention_scores,
    attention_weights,
)
from sdc.targets.cuda.kernels.attention_mma import attention_mma, can_attend_mma
from sdc.targets.cuda.kernels.cache import PIECE, CacheLayout
from sdc.targets.fused.specs import AttentionSpec, Encoder, limits

ATTENTION = OPS["spike_attention"].reference


@dataclass
class Case:
    n: int
    position: int
    slots: int
    heads: int = 4
    kv_heads: int = 2
    width: int = 8
    value_width: int = 8
    window: int = 0
    softcap: float = 0.0
    levels: int = 255
    seed: int = 5

    @property
    def options(self) -> dict[str, Any]:
        return {
            "scale": self.width**-0.5,
            "window": self.window,
            "softcap": self.softcap,
            "levels": self.levels,
        }

    @property
    def spec(self) -> AttentionSpec:
        sizes = (self.heads, self.kv_heads, self.width, self.value_width, self.slots)
        return AttentionSpec(*sizes, query_levels=15, tokens=int(self.n == 1), **self.options)

    def inputs(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The reference's output [n, h, dv]; q, k, v with their thresholds as the kernels want them."""
        rng, tokens = np.random.default_rng(self.seed), self.position + self.n
        q = rng.integers(-15, 16, (1, self.n, self.heads, self.width)).astype(np.int8)
        k = rng.integers(-127, 128, (1, self.kv_heads, tokens, self.width)).astype(np.int8)
        v = rng.integers(-127, 128, (1, self.kv_heads, tokens, self.value_width)).astype(np.int8)
        q_theta = rng.uniform(0.01, 0.1, (1, self.n, self.heads, 1)).astype(np.float32)
        k_theta, v_theta = rng.uniform(0.005, 0.03, (2, 1, self.kv_heads, tokens, 1)).astype(np.float32)
        arguments = (q, q_theta, k, k_theta, v, v_theta, np.array(self.position))
        want = ATTENTION(*arguments, causal=True, **self.options)[0]
        keys, values = padded(k[0], self.slots), padded(v[0], self.slots)
        words = values.reshape(self.kv_heads, -1, 4, self.value_width).transpose(0, 1, 3, 2)
        thetas = [padded(t[0], self.slots)[..., 0] for t in (k_theta, v_theta)]
        made = [q[0], q_theta[0, ..., 0], keys, thetas[0], words, thetas[1]]
        return want, [np.ascontiguousarray(a) for a in made]


def padded(rows: np.ndarray, slots: int) -> np.ndarray:
    """[heads, tokens, d] in a cache with room for ``slots``, garbage after the tokens."""
    heads, tokens, width = rows.shape
    garbage = np.nan if rows.dtype == np.float32 else 77
    full = np.full((heads, CacheLayout(heads, slots, width).slots, width), garbage, rows.dtype)
    full[:, :tokens] = rows
    return full


def run_split(
    spec: AttentionSpec,
    n: int,
    position: Any,
    arrays: list[np.ndarray],
    *more: np.ndarray,
    apart: bool = False,
) -> Any:
    q, q_theta, k, k_theta, v, v_theta = arrays
    at, slots = np.array(position), k.shape[-2]
    rows, pieces = (n, spec.heads, slots), (n, spec.heads, slots // PIECE)
    out = [(rows, "float32"), (pieces, "float32")]
    scores, tops = run_kernel(attention_scores(spec, apart=apart), q, q_theta, k, k_theta, at, out=out)
    out = [*out, (pieces, "int32")]
    weights, sums, largest = run_kernel(
        attention_weights(spec, apart=apart), scores, tops, v_theta, at, out=out
    )
    out = [((*pieces, spec.value_width), "int32")]
    mixed = run_kernel(attention_mix(spec, apart=apart), weights, largest, v, at, out=out)
    out = [((n, spec.heads, spec.value_width), "float32")]
    if spec.encoder:
        channels = spec.heads * spec.value_width
        out = [((n, channels), "int8"), ((n, channels // spec.encoder.group), "float32")]
    return run_kernel(attention_output(spec, apart=apart), mixed, sums, largest, at, *more, out=out)


SPLIT = [
    pytest.param(Case(1, 0, 32), id="first-token"),
    pytest.param(Case(1, 31, 32), id="last-slot"),
    pytest.param(Case(1, 70, 200, width=12, value_width=10), id="odd-sizes"),
    pytest.param(Case(1, 150, 200, heads=9, kv_heads=3, width=64, value_width=64), id="three-pieces"),
    pytest.param(Case(5, 90, 130, window=9), id="window-over-two-pieces"),
    pytest.param(Case(3, 17, 64, softcap=2.0, levels=15), id="softcap"),
]


@pytest.mark.parametrize("case", SPLIT)
def test_attention_over_pieces_is_the_references(case) -> None:
    want, arrays = case.inputs()
    got = run_split(case.spec, case.n, case.position, arrays)
    assert_close(got, want, case)


@pytest.mark.parametrize("encoder", [None, Encoder("int8", 16)])
def test_rows_of_several_sequences_are_those_of_each_alone(encoder) -> None:
    """Bit for bit: sequence 1 of three has no row, the others have other lengths, garbage after each."""
    cases = [replace(Case(1, p, 150, width=16, value_width=16, window=100), seed=p) for p in (140, 3, 70)]
    rows, spec = (0, 2), replace(cases[0].spec, encoder=encoder)
    alone = [case.inputs()[1] for case in cases]
    more = [limits(15, 1.0, 0.0)] if encoder else []
    places = np.array([[cases[i].position for i in rows], rows])
    queries = [np.concatenate([alone[i][at] for i in rows]) for at in (0, 1)]
    caches = [np.stack([arrays[at] for arrays in alone]) for at in (2, 3, 4, 5)]
    many = replace(spec, tokens=0)
    got = run_split(many, len(rows), places, [*queries, *caches], *more, apart=True)
    for row, i in enumerate(rows):
        want = run_split(spec, 1, cases[i].position, alone[i], *more)
        both = zip(got, want, strict=True) if encoder else [(got, want)]
        for several, one in both:
            np.testing.assert_array_equal(several[row], one[0])


MMA = [
    pytest.param(Case(7, 0, 40, width=32, value_width=32), id="prefill"),
    pytest.param(Case(70, 37, 150, 2, 1, 64, 64), id="two-blocks-of-queries"),
    pytest.param(Case(20, 60, 96, 2, 1, 32, 8, window=9), id="window"),
    pytest.param(Case(3, 17, 64, 4, 4, 32, 16, softcap=2.0, levels=15), id="softcap"),
]


@pytest.mark.parametrize("case", MMA)
def test_attention_on_tensor_cores_is_the_references(case) -> None:
    want, arrays = case.inputs()
    assert can_attend_mma(case.spec)
    out = [((case.n, case.heads, case.value_width), "float32")]
    got = run_kernel(attention_mma(case.spec), *arrays, np.array(case.position), out=out)
    assert_close(got, want, case)


def assert_close(got: np.ndarray, want: np.ndarray, case: Case) -> None:
    """To rounding: sums of exponentials have another order. The softcap's tanh may move a count by one."""
    unit = np.abs(want).max() / case.levels * 3
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=unit if case.softcap else 1e-6)


@pytest.mark.parametrize(("block", "floor"), [(0, 0.0), (4, 0.0), (32, 0.0), (4, 0.2)])
def test_the_output_is_encoded_at_once(block, floor) -> None:
    case = Case(1, 70, 100, width=32, value_width=32)
    _, arrays = case.inputs()
    floats = run_split(case.spec, 1, 70, arrays).reshape(1, -1)
    signs = np.sign(np.random.default_rng(7).normal(size=128)).astype(np.float32)
    rows = OPS["hadamard"].reference(floats, signs, block=block) if block else floats
    want = OPS["spike_encode"].reference(rows, levels=15, group=16, floor=floor)
    spec = replace(case.spec, encoder=Encoder("int8", 16, floored=floor > 0), block=block)
    more = (*((signs,) if block else ()), limits(15, 1.0, 0.0, floor))
    counts, theta = run_split(spec, 1, 70, arrays, *more)
    np.testing.assert_array_equal(counts, want[0])
    np.testing.assert_array_equal(theta, want[1])
