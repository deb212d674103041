"""Graphs without state on the CPU target: fused where a kernel fits, TVM's own code elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tvm import relax, tirx

from sdc.errors import NumericsError, TargetError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model, ModelInfo
from sdc.ir.ops import hadamard, readout, spike_accumulate, spike_encode, spike_matmul
from sdc.ir.params import array_param
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level

rng = np.random.default_rng(9)
WEIGHTS = {
    "gain": rng.uniform(0.5, 2, 24).astype(np.float32),
    "shift": rng.normal(size=24).astype(np.float32),
    "signs": np.sign(rng.normal(size=24)).astype(np.float32),
    "w": rng.integers(-127, 128, (10, 24)).astype(np.int8),
    "w.scale": rng.random((10, 1), np.float32),
    "w.bias": rng.normal(size=10).astype(np.float32),
    "u": rng.integers(-127, 128, (6, 10)).astype(np.int8),
    "u.scale": rng.random((6, 5), np.float32),
}


def network(n: object) -> Model:
    """LayerNorm -> linear -> ReLU -> linear on unsigned counts, and the product of the result with itself."""
    x = relax.Var("x", relax.TensorType([2, n, 24], "float32"))
    v = {k: relax.Var(k, relax.TensorType(list(a.shape), str(a.dtype))) for k, a in WEIGHTS.items()}
    bb = relax.BlockBuilder()
    with bb.function("main", [x, *v.values()], attrs={"num_input": 1}):
        with bb.dataflow():
            h = bb.emit(relax.op.nn.layer_norm(x, v["gain"], v["shift"], axes=-1, epsilon=1e-5))
            h = bb.emit(hadamard(h, v["signs"], block=8))
            e = bb.emit(spike_encode(h, levels=15, group=8, name="w"))
            counts, theta = bb.emit(e[0]), bb.emit(e[1])
            acc = bb.emit(spike_accumulate(counts, v["w"], group=8, name="w"))
            y = bb.emit(relax.op.nn.relu(bb.emit(readout(acc, theta, v["w.scale"], v["w.bias"]))))
            e = bb.emit(spike_encode(y, levels=255, group=10, signed=False, name="u"))
            acc = bb.emit(spike_accumulate(bb.emit(e[0]), v["u"], group=2, name="u"))
            z = bb.emit(readout(acc, bb.emit(e[1]), v["u.scale"]))
            e = bb.emit(spike_encode(z, levels=127, group=6, name="zz"))
            c, t = bb.emit(e[0]), bb.emit(e[1])
            out = bb.emit_output(relax.Tuple([z, bb.emit(spike_matmul((c, t), (c, t), name="zz"))]))
        bb.emit_func_output(out)
    return Model(bb.get(), {k: array_param(k, a) for k, a in WEIGHTS.items()}, ModelInfo("stateless"))


def runner(model: Model, folder):
    target = CpuTarget((best_level().name,))
    result = target.build(model, None, folder, lambda *_: None)
    return target.load(folder, json.loads(json.dumps(result.manifest)))


@pytest.mark.parametrize("n", [1, 4, tirx.Var("n", "int64")], ids=["one", "four", "symbolic"])
def test_a_stateless_graph_gives_the_evaluators_outputs(n, tmp_path) -> None:
    model = network(n)
    x = rng.normal(size=(2, n if isinstance(n, int) else 5, 24)).astype(np.float32)
    got = runner(model, tmp_path).call({"x": x})
    assert list(got) == ["output_0", "output_1"]
    for array, want in zip(got.values(), Evaluator(model).run("main", x), strict=True):
        np.testing.assert_allclose(array, want, rtol=1e-4, atol=1e-3 * np.abs(want).max())


def test_wrong_inputs_and_bad_numbers_are_named(tmp_path) -> None:
    run = runner(network(4), tmp_path)
    with pytest.raises(TargetError, match=r'input "x" must be float32 \[2, 4, 24\].*got nothing'):
        run.call({})
    with pytest.raises(TargetError, match=r"got float64 \[2, 4, 24\]"):
        run.call({"x": np.zeros((2, 4, 24))})
    with pytest.raises(TargetError, match=r"got float32 \[2, 5, 24\]"):
        run.call({"x": np.zeros((2, 5, 24), np.float32)})
    with pytest.raises(NumericsError, match="output_0"):
        run.call({"x": np.full((2, 4, 24), np.nan, np.float32)})
