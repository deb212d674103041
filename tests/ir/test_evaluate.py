"""The evaluator: against TVM's own build of the same module, symbolic shapes, hooks, errors."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from sdc.errors import SdcError
from sdc.ir.evaluate import Evaluator, Event, PendingAccumulator
from sdc.ir.model import Model
from sdc.ir.ops import hadamard, readout, spike_accumulate, spike_encode
from sdc.ir.params import array_param

rng = np.random.default_rng(0)
N = tirx.Var("n", "int64")
X = rng.normal(size=(3, 8)).astype(np.float32)


def unary(build, shape=(N, 8), dtype="float32") -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType(list(shape), dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.normalize(build(x)))
        builder.emit_func_output(out)
    return builder.get()


def by_tvm(module: tvm.IRModule, *inputs: np.ndarray):
    machine = relax.VirtualMachine(
        tvm.compile(relax.transform.LegalizeOps()(module), target="llvm"), tvm.cpu()
    )
    result = machine["main"](*[tvm.runtime.tensor(i) for i in inputs])
    return [result.numpy()] if hasattr(result, "numpy") else [r.numpy() for r in result]


OPERATIONS = {
    "add": lambda x: relax.op.add(x, relax.const(1.5, "float32")),
    "power": lambda x: relax.op.power(x, relax.const(2.0, "float32")),
    "rsqrt": lambda x: relax.op.rsqrt(relax.op.exp(x)),
    "erf": relax.op.erf,
    "sigmoid": relax.op.sigmoid,
    "silu": relax.op.nn.silu,
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
    "softmax": lambda x: relax.op.nn.softmax(x, axis=-1),
    "mean": lambda x: relax.op.mean(x, axis=[1], keepdims=True),
    "max": lambda x: relax.op.max(x, axis=[0]),
    "reshape": lambda x: relax.op.reshape(x, [N * 2, 4]),
    "permute": lambda x: relax.op.permute_dims(x, [1, 0]),
    "split": lambda x: relax.op.split(x, [3], axis=1),
    "slice": lambda x: relax.op.strided_slice(x, axes=[1], begin=[1], end=[7], strides=[2]),
    "expand": lambda x: relax.op.squeeze(relax.op.expand_dims(x, [0]), [0]),
    "concat": lambda x: relax.op.concat([x, x], axis=1),
    "clip": lambda x: relax.op.clip(x, -0.5, 0.5),
    "where": lambda x: relax.op.where(
        relax.op.greater(x, relax.const(0.0, "float32")), x, relax.op.negative(x)
    ),
    "rms_norm": lambda x: relax.op.nn.rms_norm(x, relax.const(np.arange(8, dtype="float32")), -1, 1e-5),
    "layer_norm": lambda x: relax.op.nn.layer_norm(
        x, relax.const(np.arange(8, dtype="float32")), relax.const(np.ones(8, "float32")), -1, 1e-5
    ),
    "cumsum, which has no NumPy reference": lambda x: relax.op.cumsum(x, axis=1),
    "full, which has no NumPy reference": lambda x: relax.op.full([N, 2], relax.const(1.5, "float32")),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_what_tvm_gives(name) -> None:
    module = unary(OPERATIONS[name])
    for got, want in zip(Evaluator(Model(module, {})).run("main", X), by_tvm(module, X), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def spiking_linear() -> Model:
    x = relax.Var("x", relax.TensorType([N, 8], "float32"))
    weights = {
        "s": np.sign(rng.normal(size=8)).astype(np.float32),
        "w.q": rng.integers(-7, 8, (5, 8)).astype(np.int8),
        "w.scale": rng.random((5, 1), np.float32),
    }
    s, w, scale = (relax.Var(k, relax.TensorType(list(v.shape), str(v.dtype))) for k, v in weights.items())
    builder = relax.BlockBuilder()
    with builder.function("main", [x, s, w, scale], attrs={"num_input": 1}):
        with builder.dataflow():
            encoded = builder.emit(
                spike_encode(builder.emit(hadamard(x, s, block=4)), levels=7, group=4, name="l")
            )
            acc = builder.emit(spike_accumulate(encoded[0], w, group=4, name="l"))
            out = builder.emit_output(readout(acc, encoded[1], scale))
        builder.emit_func_output(out)
    return Model(builder.get(), {k: array_param(k, v) for k, v in weights.items()})


def test_a_hook_sees_every_operation_of_the_dialect_with_its_weights() -> None:
    model, events = spiking_linear(), list[Event]()
    (y,) = Evaluator(model, events.append).run("main", X)
    assert [e.op for e in events] == ["hadamard", "spike_encode", "spike_accumulate", "readout"]
    assert events[2].arg_names == ("", "w.q")
    assert isinstance(events[2].result, PendingAccumulator)
    theta, scale = events[1].result[1], events[3].args[2]
    acc = events[2].result.materialise()
    assert acc.shape == (3, 2, 5)
    want = sum((theta[:, g, None] * scale[:, 0]) * acc[:, g].astype(np.float32) for g in range(2))
    np.testing.assert_array_equal(y, want)


def test_inputs_of_another_shape_or_dtype_are_refused() -> None:
    evaluator = Evaluator(spiking_linear())
    with pytest.raises(SdcError, match="axis 1 of x must be"):
        evaluator.run("main", np.zeros((3, 9), np.float32))
    with pytest.raises(SdcError, match="input x of main must be float32, got float64"):
        evaluator.run("main", np.zeros((3, 8)))
    with pytest.raises(SdcError, match="takes 1 inputs, got 2"):
        evaluator.run("main", X, X)


def test_a_weight_the_model_does_not_hold_is_named() -> None:
    model = spiking_linear()
    params = {k: p for k, p in model.params.items() if k != "w.scale"}
    with pytest.raises(SdcError, match=r'weight "w\.scale", which the model does not hold'):
        Evaluator(Model(model.module, params)).run("main", X)


def test_kept_weights_are_read_once() -> None:
    model = spiking_linear()
    evaluator = Evaluator(model, keep_params=True)
    evaluator.run("main", X)
    assert evaluator.param("w.q") is evaluator.param("w.q")
