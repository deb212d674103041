"""Damaged models: refused with an error for people, or compiled to what onnxruntime computes; nothing else.

Valid tiny models are mutated: a node dropped, inputs swapped, an attribute changed, a type or shape declared
otherwise, bytes cut off or flipped. What loads is run by the evaluator; where onnxruntime runs the same file,
the first outputs are equal. Where a damaged weight makes our sums overflow, and not onnxruntime's, in another
order, compiling says so and names the operation.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.tiny_llama import decoder_inputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto
from tvm import tirx

from sdc.errors import NumericsError, SdcError
from sdc.frontends.onnx import load
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.pipeline import compile_passes, run_passes

MODELS = Path(__file__).parents[2] / "models"
SOURCES = (
    "mlp_dynamo_op20",
    "encoder_dynamo_op18",
    "llama_dynamo_op18",
    "llama_dynamo_op23",
    "llama_dynamo_past_op24",
    "gpt2_dynamo_op18",
    "bert_dynamo_op18",
    "genai/llama_int4",
    "quantised/llama_dynamic_int8",
)
IDS = np.random.default_rng(0).integers(0, 96, (1, 6))
FLIPS = 4
ROUNDED = (
    0.2  # onnxruntime's rounding of activations to 8 bits, over the deviation; see helpers/model_cells.py
)
SECONDS = 120  # a case takes less than one


@cache
def source(name: str) -> bytes:
    return (MODELS / f"{name}.onnx").read_bytes()


# -- mutations -------------------------------------------------------------------------------------


def drop_node(model: onnx.ModelProto, random: Any) -> None:
    del model.graph.node[random.randrange(len(model.graph.node))]


def swap_inputs(model: onnx.ModelProto, random: Any) -> None:
    node = random.choice([n for n in model.graph.node if len(n.input) > 1])
    i, j = random.sample(range(len(node.input)), 2)
    node.input[i], node.input[j] = node.input[j], node.input[i]


def rewire_input(model: onnx.ModelProto, random: Any) -> None:
    graph = model.graph
    names = [*(i.name for i in graph.input), *(i.name for i in graph.initializer)]
    names += [o for n in graph.node for o in n.output]
    node = random.choice([n for n in graph.node if n.input])
    node.input[random.randrange(len(node.input))] = random.choice(names)


def change_attribute(model: onnx.ModelProto, random: Any) -> None:
    attribute = random.choice([a for n in model.graph.node for a in n.attribute])
    if attribute.type == AttributeProto.INT:
        attribute.i = random.choice([attribute.i + 1, attribute.i - 1, -attribute.i, 0, 1, 7, 2**40])
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = random.choice([attribute.f * 2, -attribute.f, 0.0, float("nan"), 1e30])
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        where = random.randrange(len(attribute.ints))
        attribute.ints[where] = random.choice([0, 1, 2, -1, 5, attribute.ints[where] + 1])
    elif attribute.type == AttributeProto.STRING:
        attribute.s = random.choice([b"", b"tanh", b"none", b"\xff"])
    else:
        attribute.name += "x"


def drop_attribute(model: onnx.ModelProto, random: Any) -> None:
    node = random.choice([n for n in model.graph.node if n.attribute])
    del node.attribute[random.randrange(len(node.attribute))]


def change_operation(model: onnx.ModelProto, random: Any) -> None:
    nodes = model.graph.node
    random.choice(nodes).op_type = random.choice(nodes).op_type


def change_weight_shape(model: onnx.ModelProto, random: Any) -> None:
    tensor = random.choice([t for t in model.graph.initializer if t.dims])
    where = random.randrange(len(tensor.dims))
    tensor.dims[where] = random.choice([0, 1, tensor.dims[where] + 1, tensor.dims[where] // 2, -1, 2**40])


def change_weight_type(model: onnx.ModelProto, random: Any) -> None:
    kinds = [TensorProto.INT32, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.STRING]
    random.choice(model.graph.initializer).data_type = random.choice(kinds)


def change_declared(model: onnx.ModelProto, random: Any) -> None:
    value = random.choice([*model.graph.input, *model.graph.output, *model.graph.value_info])
    tensor = value.type.tensor_type
    if tensor.shape.dim and random.random() < 0.7:
        random.choice(tensor.shape.dim).dim_value = random.choice([0, 1, 2, 3, 2**40])
    else:
        tensor.elem_type = random.choice([TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL, 0])


def swap_nodes(model: onnx.ModelProto, random: Any) -> None:
    nodes = model.graph.node
    i, j = random.sample(range(len(nodes)), 2)
    first = onnx.NodeProto.FromString(nodes[i].SerializeToString())
    nodes[i].CopyFrom(nodes[j])
    nodes[j].CopyFrom(first)


STRUCTURAL: tuple[Callable[[onnx.ModelProto, Any], None], ...] = (
    drop_node,
    swap_inputs,
    rewire_input,
    change_attribute,
    drop_attribute,
    change_operation,
    change_weight_shape,
    change_weight_type,
    change_declared,
    swap_nodes,
)


def damaged(name: str, kind: str, random: Any) -> bytes:
    """The bytes of a mutated model."""
    content = source(name)
    if kind == "truncate":
        return content[: random.randrange(len(content))]
    if kind == "flip":
        flipped = bytearray(content)
        for _ in range(FLIPS):
            flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        return bytes(flipped)
    model = onnx.ModelProto.FromString(content)
    next(m for m in STRUCTURAL if m.__name__ == kind)(model, random)
    return model.SerializeToString()


# -- outcomes --------------------------------------------------------------------------------------


def noise(value: Any) -> np.ndarray:
    """An array for an input of our stateless function or of onnxruntime: the same for the same shape."""
    return np.random.default_rng(1).normal(size=value)


def feed(name: str, shape: list[Any], kind: str) -> np.ndarray:
    """What an input gets, by its name, symbolic sizes being those of the tokens."""
    if "past" in name:
        return np.zeros(
            [1, *(d if isinstance(d, int) else (0, 8)[i == 2] for i, d in enumerate(shape[1:]))], kind
        )
    if "mask" in name or "ids" in name:
        return (IDS if "input" in name else np.ones_like(IDS)).astype(kind)
    sizes = iter(IDS.shape)
    return noise([d if isinstance(d, int) else next(sizes, 1) for d in shape]).astype(kind)


def by_onnxruntime(path: Path) -> np.ndarray | None:
    """The first output; None where onnxruntime refuses the file, fails on it, or the result is not finite."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # no saturation, see model_cells.py
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {i.name: feed(i.name, i.shape, KINDS[i.type]) for i in session.get_inputs()}
        result = session.run(None, feeds)[0]
    except Exception:  # onnxruntime has no class of its own for all it raises; what it refuses is no oracle
        return None
    return result if np.isfinite(result).all() else None


KINDS = {
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(bool)": "bool",
    "tensor(int32)": "int32",
}


def by_sdc(path: Path) -> tuple[Model, list[np.ndarray], np.ndarray] | None:
    """The model, what it was fed, its first output; None where loading or running refuses it."""
    try:
        model = load(path, max_seq=16)
        if model.info.kind == "decoder":
            return model, [IDS[0]], Evaluator(model).run("forward", *decoder_inputs(model, IDS))[0]
        function = model.module["main"]
        inputs = list(function.params)[: int(function.attrs["num_input"])]
        shapes = [
            [int(d) if isinstance(d, tirx.IntImm) else str(d) for d in v.ty.shape.values] for v in inputs
        ]
        feeds = [feed(str(v.name), s, str(v.ty.dtype)) for v, s in zip(inputs, shapes, strict=True)]
        return model, feeds, Evaluator(model).run("main", *feeds)[0]
    except SdcError:
        return None


def check(name: str, kind: str, random: Any, folder: Path) -> None:
    path = folder / "m.onnx"
    path.write_bytes(damaged(name, kind, random))
    with time_limit(), np.errstate(all="ignore"):
        result = by_sdc(path)
        want = by_onnxruntime(path) if result is not None else None
        if result is None or want is None:
            return
        model, feeds, got = result
        if not np.isfinite(got).all():
            assert_compiling_refuses(model, feeds)
            return
    assert got.shape == want.shape
    rounded = ROUNDED if "quantised" in name else 1e-3
    assert np.sqrt(np.mean(np.square(got - want))) <= rounded * max(1, want.std())


def assert_compiling_refuses(model: Model, feeds: list[np.ndarray]) -> None:
    window = feeds[0] if model.info.kind == "decoder" else tuple(feeds)
    with pytest.raises(NumericsError):
        run_passes(model, compile_passes(), PassContext(PassOptions(), (window,)), verify=False)


@contextlib.contextmanager
def time_limit():
    """Fails a case that hangs."""

    def late(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"a damaged model took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


KINDS_OF_DAMAGE = [*(m.__name__ for m in STRUCTURAL), "truncate", "flip"]
case = given(st.sampled_from(SOURCES), st.sampled_from(KINDS_OF_DAMAGE), st.randoms(use_true_random=False))
quietly = {"database": None, "suppress_health_check": list(HealthCheck)}


@case
@settings(max_examples=30, derandomize=True, **quietly)
def test_damaged_models_are_refused_or_right(name, kind, random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(name, kind, random, Path(folder))


@pytest.mark.slow
@case
@settings(max_examples=2000, derandomize=True, **quietly)
def test_two_thousand_damaged_models_are_refused_or_right(name, kind, random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(name, kind, random, Path(folder))
