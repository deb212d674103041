"""Lockstep: several runs at once give what each gives alone; results can be replaced on the way."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sketch import Sketch
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import SdcError
from sdc.ir.evaluate import Evaluator, Lockstep
from sdc.ir.ops import is_op
from sdc.passes.graph import Graph

rng = np.random.default_rng(0)


def test_runs_of_different_lengths_agree_with_the_evaluator() -> None:
    model = tiny_llama()
    inputs = [decoder_inputs(model, rng.integers(0, 64, (1, n))) for n in (3, 7)]
    last = list(Graph(model).linears())[-1].var
    seen = {}

    def watch(var: relax.Var, call: relax.Call, runs: Lockstep) -> None:
        if var.same_as(last):
            seen["x"] = runs.values(call.args[0])

    lockstep = Lockstep(model, inputs)
    lockstep.run(watch, last)
    assert [x.shape[1] for x in seen["x"]] == [3, 7]
    for frame, each in zip(lockstep.frames, inputs, strict=True):
        np.testing.assert_array_equal(frame.values[last], Evaluator(model).run("forward", *each)[0])


def test_a_replaced_result_is_what_the_rest_reads() -> None:
    s = Sketch(x=[2])
    doubled = s(relax.op.add(s["x"], s["x"]))
    model = s.model(s(relax.op.negative(doubled)))
    out = Graph(model).bindings[-1].var

    def replace(_var: relax.Var, call: relax.Call, runs: Lockstep) -> list[np.ndarray] | None:
        return [np.float32([5, 6])] * len(runs.frames) if is_op(call, "add") else None

    lockstep = Lockstep(model, [(np.float32([1, 2]),)])
    lockstep.run(replace, out)
    assert lockstep.frames[0].values[out].tolist() == [-5, -6]


def test_caches_that_only_a_caller_would_read_are_let_go() -> None:
    """Else the keys and values of every layer would be held to the end."""
    model = tiny_llama()
    last = list(Graph(model).linears())[-1].var
    lockstep = Lockstep(model, [decoder_inputs(model, rng.integers(0, 64, (1, 3)))])
    lockstep.run(lambda *_: None, last)
    appended = [b.var for b in Graph(model).bindings if is_op(b.value, "sdc.kv_append")]
    assert appended
    assert not any(var in lockstep.frames[0].values for var in appended)


def test_an_unknown_end_is_an_error() -> None:
    s = Sketch(x=[2])
    model = s.model(s(relax.op.negative(s["x"])))
    with pytest.raises(SdcError, match="binds no variable nowhere"):
        Lockstep(model, [(np.float32([1, 2]),)]).run(
            lambda *_: None, relax.Var("nowhere", relax.TensorType([2], "float32"))
        )
