"""Calibration statistics against what the inputs are by construction."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sketch import Sketch
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import NumericsError
from sdc.ir.evaluate import Evaluator, Event
from sdc.ir.ops import attention, linear
from sdc.passes import statistics
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph
from sdc.passes.statistics import calibration_inputs, collect_statistics

rng = np.random.default_rng(0)
W = rng.normal(size=(5, 4)).astype(np.float32)


def one_linear():
    s = Sketch(x=[3, 4])
    return s.model(s(linear(s["x"], s.weight("w", W), name="fc")))


def test_maxima_and_samples_of_a_linear() -> None:
    windows = tuple((rng.normal(size=(3, 4)).astype(np.float32),) for _ in range(2))
    seen = collect_statistics(one_linear(), PassContext(calibration=windows), rows=4)["fc"]
    both = np.concatenate([w[0] for w in windows])
    np.testing.assert_array_equal(seen.absmax, np.abs(both).max(0))
    np.testing.assert_array_equal(seen.weight_absmax, np.abs(W).max(0))
    np.testing.assert_array_equal(seen.rows, both[[0, 2, 3, 5]])
    assert seen.tokens == 6


def test_no_rows_unless_asked_for_and_a_bare_array_is_one_input() -> None:
    seen = collect_statistics(one_linear(), PassContext(calibration=(np.ones((3, 4), np.float32),)))["fc"]
    assert seen.rows.shape == (0, 4)
    np.testing.assert_array_equal(seen.absmax, np.ones(4))


def test_a_value_that_is_not_finite_names_the_operation() -> None:
    with pytest.raises(NumericsError, match="fc: its input is NaN or infinite"):
        collect_statistics(one_linear(), PassContext(calibration=(np.full((3, 4), np.nan, np.float32),)))


def test_windows_of_a_decoder_run_together_and_give_what_each_gives_alone() -> None:
    model = tiny_llama()
    windows = (rng.integers(0, 64, 7), rng.integers(0, 64, 5), rng.integers(0, 64, 7))
    ctx = PassContext(calibration=windows)
    assert [count for count, _ in calibration_inputs(model, ctx)] == [2, 1]
    together = collect_statistics(model, ctx, rows=6)
    assert set(together) >= {
        "layers.1.attn.o",
        "head",
        "layers.0.attn.q",
        "layers.0.attn.k",
        "layers.0.attn.v",
    }
    alone = [collect_statistics(model, PassContext(calibration=(w,))) for w in windows]
    for name, seen in together.items():
        want = np.max([a[name].absmax for a in alone], axis=0)
        np.testing.assert_allclose(seen.absmax, want, rtol=1e-4, err_msg=name)
        assert seen.tokens == sum(a[name].tokens for a in alone)
        assert len(seen.rows) == 6


def test_a_linear_is_complete_once_with_the_rows_of_all_windows() -> None:
    model, calls = tiny_llama(), []
    ctx = PassContext(calibration=tuple(rng.integers(0, 64, n) for n in (7, 5, 7)))
    seen = collect_statistics(model, ctx, 6, lambda *call: calls.append(call))
    linears = list(Graph(model).linears())
    assert [name for name, _, _ in calls] == [found.name for found in linears]
    for found, (name, rows, weight) in zip(linears, calls, strict=True):
        np.testing.assert_array_equal(rows, seen[name].rows)
        np.testing.assert_array_equal(weight, model.params[str(found.weight.name)].value())


def test_long_windows_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_LOGIT_BYTES", 4 * 7 * 64 * 2)
    ctx = PassContext(calibration=tuple(rng.integers(0, 64, 7) for _ in range(5)))
    assert [count for count, _ in calibration_inputs(tiny_llama(), ctx)] == [2, 2, 1]


def test_keys_behind_the_last_token_are_not_seen() -> None:
    shape = relax.TensorType([1, 2, 32, 8], "float32")
    model, tokens = tiny_llama(layers=1), rng.integers(0, 64, 5)
    events = list[Event]()
    Evaluator(model, events.append).run("forward", *decoder_inputs(model, tokens[None]))
    (event,) = [e for e in events if e.op == "attention"]
    assert event.args[1].shape == tuple(int(d) for d in shape.shape.values)
    seen = collect_statistics(model, PassContext(calibration=(tokens,)), rows=100)["layers.0.attn:k"]
    assert seen.tokens == 2 * 5
    assert np.abs(seen.rows).min(1).all()


def test_an_attention_without_causality_sees_every_key() -> None:
    s = Sketch(q=[1, 3, 2, 4], k=[1, 2, 6, 4], p=([], "int64"))
    a = attention(s["q"], s["k"], s["k"], s["p"], scale=0.5, causal=False, name="a")
    window = (np.ones((1, 3, 2, 4), np.float32), np.ones((1, 2, 6, 4), np.float32), np.asarray(0))
    seen = collect_statistics(s.model(s(a)), PassContext(calibration=(window,)))
    assert {name: s.tokens for name, s in seen.items()} == {"a:q": 6, "a:k": 12, "a:v": 12}
