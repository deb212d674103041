"""whole-loss: against the program that the remaining passes make."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny_llama import decoder_inputs, tiny_llama
from scipy.special import log_softmax

from sdc.ir.evaluate import Evaluator, Event
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.calibrate import Calibrate
from sdc.passes.merge_parallel_linears import MergeParallelLinears
from sdc.passes.pipeline import run_passes
from sdc.passes.quantise_weights import QuantiseWeights
from sdc.passes.rewrite_matmul_to_spikes import RewriteMatmulToSpikes
from sdc.passes.whole_loss import measure_whole

rng = np.random.default_rng(0)
WINDOWS = tuple(rng.integers(0, 64, 24) for _ in range(3))


@pytest.mark.parametrize("options", [{"levels": 7}, {"levels": 31, "weights": "int4", "coding": "bitwise"}])
def test_loss_and_spikes_are_those_of_the_program(options) -> None:
    ctx = PassContext(PassOptions(group=16, **options), WINDOWS)
    model = run_passes(tiny_llama(), [MergeParallelLinears(), Calibrate()], ctx)
    found = measure_whole(model, ctx, model.encodings)
    program = run_passes(model, [QuantiseWeights(), RewriteMatmulToSpikes()], ctx)
    fired: dict[str, float] = {}

    def count(event: Event) -> None:
        if event.op == "spike_encode":
            bits = np.bitwise_count(np.abs(event.result[0]).astype(np.int32))
            each = bits if options.get("coding") == "bitwise" else np.abs(event.result[0]).astype(int)
            fired[event.attrs["name"]] = fired.get(event.attrs["name"], 0) + int(each.sum())

    losses = []
    for window in WINDOWS:
        inputs = window[None]
        exact = log_softmax(Evaluator(model).run("forward", *decoder_inputs(model, inputs))[0], axis=-1)
        run = Evaluator(program, count).run("forward", *decoder_inputs(program, inputs))
        losses.append((np.exp(exact) * (exact - log_softmax(run[0], axis=-1))).sum(-1).mean())
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-3)
    assert found.loss > 0.01
    for name, spikes in found.spikes.items():
        assert spikes == pytest.approx(fired[name] / sum(map(len, WINDOWS)), rel=1e-3), name
