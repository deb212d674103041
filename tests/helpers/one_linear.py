"""The smallest spiking model: for tests of what surrounds the machine code."""

from __future__ import annotations

import numpy as np
from tvm import relax

from sdc.ir.model import Model, ModelInfo
from sdc.ir.ops import readout, spike_accumulate, spike_encode
from sdc.ir.params import array_param

__all__ = ["one_linear"]


def one_linear(width: int = 24, seed: int = 0) -> Model:
    """One linear layer of ``width`` channels on two tokens: little to compile."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.integers(-127, 128, (10, width)).astype(np.int8),
        "w.scale": rng.random((10, 1), np.float32),
    }
    x = relax.Var("x", relax.TensorType([2, width], "float32"))
    v = {k: relax.Var(k, relax.TensorType(list(a.shape), str(a.dtype))) for k, a in weights.items()}
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *v.values()], attrs={"num_input": 1}):
        with builder.dataflow():
            encoded = builder.emit(spike_encode(x, levels=15, group=8, clip_ratio=1 - seed / 10, name="w"))
            counts, theta = builder.emit(encoded[0]), builder.emit(encoded[1])
            acc = builder.emit(spike_accumulate(counts, v["w"], group=8, name="w"))
            out = builder.emit_output(readout(acc, theta, v["w.scale"]))
        builder.emit_func_output(out)
    return Model(builder.get(), {k: array_param(k, a) for k, a in weights.items()}, ModelInfo("stateless"))
