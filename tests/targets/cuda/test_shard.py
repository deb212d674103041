"""Tensor parallelism: the sharded IR, and accumulators bit-equal to the whole program's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from helpers.spiking_form import SpikeOptions, spiking_form, state_inputs
from helpers.tiny_llama import tiny_llama
from helpers.workers import Threads

from sdc.errors import TargetError
from sdc.ir.evaluate import Evaluator
from sdc.ir.evaluate.relax_ops import NUMPY_OPS
from sdc.ir.model import Model
from sdc.ir.ops import OPS, shape_of
from sdc.ir.params import array_param
from sdc.ir.tables import ByteRows, byte_rows
from sdc.targets.cuda.cuts import Cut, cut_param
from sdc.targets.cuda.shard import shard

TOKENS = np.random.default_rng(4).integers(0, 64, 6)
OPTIONS = SpikeOptions(group=8, block=8, weight_bits=4, weight_group=8)


@pytest.fixture(scope="module")
def model() -> Model:
    return spiking_form(tiny_llama(layers=2, bias=True), OPTIONS)


def test_a_cut_takes_a_share_of_every_segment() -> None:
    rows = np.arange(12).reshape(12, 1)
    assert Cut(0, (8, 2, 2), 1, 2)(rows).ravel().tolist() == [4, 5, 6, 7, 9, 11]
    assert Cut(0, (8, 2, 2), 1, 2).shape((12, 1)) == (6, 1)


def test_a_cut_beyond_the_end_is_filled_up() -> None:
    rows = np.arange(1, 6).reshape(5, 1)
    shares = [Cut(0, (8,), worker, 4)(rows).ravel().tolist() for worker in range(4)]
    assert shares == [[1, 2], [3, 4], [5, 0], [0, 0]]
    assert Cut(0, (8,), 0, 4).shape((5, 1)) == (2, 1)


def test_a_table_of_bytes_stays_one() -> None:
    table = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    whole = array_param("table", table).then(ByteRows())
    for worker in range(2):
        share = cut_param(whole, Cut(0, (6,), worker, 2))
        parts = byte_rows(share)
        assert parts is not None
        integers, scales = (part.value() for part in parts)
        np.testing.assert_array_equal(integers * scales, share.value())
        held = whole.value()[3 * worker : 3 * worker + 3]
        np.testing.assert_array_equal(share.value()[: len(held)], held)


def test_the_sharded_module_has_shares_and_two_all_reduces_a_layer(model) -> None:
    halves = shard(model, 2)
    assert halves[0].module is halves[1].module
    function = halves[0].module["forward"]
    shapes = {str(v.name): shape_of(v, "test") for v in function.params}
    whole = {str(v.name): shape_of(v, "test") for v in model.module["forward"].params}
    calls = [b.value for block in function.body.blocks for b in block.bindings]
    names = Counter(str(c.op.name) for c in calls if hasattr(c, "op") and hasattr(c.op, "name"))
    assert names["relax.ccl.allreduce"] == 2 * 2 + 1  # and the embedding's
    for name, axis in {"attn.q": 0, "attn.k": 0, "attn.o": 1, "mlp.gate": 0, "mlp.down": 1}.items():
        got, all_of_it = shapes[f"layers.0.{name}.q"], whole[f"layers.0.{name}.q"]
        assert got[axis] * 2 == all_of_it[axis], name
        assert got[1 - axis] == all_of_it[1 - axis], name
    caches = [n for n in shapes if n.startswith("k_cache")]
    assert all(shapes[n][1] * 2 == whole[n][1] for n in caches)
    for name in ("embed.weight", "head.q", "head.scale"):
        assert [2 * shapes[name][0], *shapes[name][1:]] == whole[name], name
    for worker in halves:
        for name, param in worker.params.items():
            if name in shapes:
                assert list(param.value().shape) == shapes[name], name


def test_accumulators_are_those_of_the_whole_program(model, monkeypatch) -> None:
    workers = 2
    threads, halves = Threads(workers), shard(model, workers)
    monkeypatch.setitem(NUMPY_OPS, "ccl.allreduce", lambda x, **_: threads.add_up(x))
    events: list[list[Any]] = [[], []]

    def work(worker: int) -> np.ndarray:
        def watch(event: Any) -> None:
            if event.op == "spike_accumulate":
                counts, weight = event.args
                group = event.attrs["group"]
                acc = OPS["spike_accumulate"].reference(counts, weight, group=group)
                events[worker].append((event.attrs["name"], counts, acc))

        run = Evaluator(halves[worker], watch)
        return run.run("forward", TOKENS[None], np.array(0), *state_inputs(halves[worker]))[0][0]

    logits = threads.run(work)
    want = Evaluator(model).run("forward", TOKENS[None], np.array(0), *state_inputs(model))[0][0]
    assert np.median(np.abs(np.concatenate(logits, -1) - want)) < 1e-4 * np.abs(want).max()
    assert len(events[0]) == 2 * 7 + 1
    for (name, counts, acc), (_, other_counts, other) in zip(*events, strict=True):
        by_columns = name.endswith((".o", ".down"))
        everything = np.concatenate([counts, other_counts], -1) if by_columns else counts
        full = OPS["spike_accumulate"].reference(everything, model.params[f"{name}.q"].value(), group=8)
        np.testing.assert_array_equal(np.concatenate([acc, other], -2 if by_columns else -1), full)


def test_what_does_not_divide_is_refused(model) -> None:
    with pytest.raises(TargetError, match="two workers or more"):
        shard(model, 1)
    with pytest.raises(TargetError, match=r"do not divide among 3 workers|would lie on two workers"):
        shard(model, 3)
    wide = spiking_form(tiny_llama(layers=1), SpikeOptions(group=0))
    with pytest.raises(TargetError, match="would lie on two workers"):
        shard(wide, 2)
