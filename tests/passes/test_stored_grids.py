"""Weights that arrive as integers keep them, bit for bit, through all passes and in the artefact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from sdc.frontends.onnx import load
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.passes.base import PassContext, PassOptions, silent
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level

N, K, BLOCK = 48, 128, 32
PLAIN = {"smoothing": 0.0, "block": 0}
random = np.random.default_rng(5)
SCALES = random.uniform(0.01, 0.1, (2, N, K // BLOCK)).astype(np.float32)
NIBBLES = random.integers(0, 16, (2, N, K), dtype=np.uint8)
ZEROS = random.integers(0, 16, (2, N, K // BLOCK), dtype=np.uint8)
BYTES = random.integers(-128, 128, (2, N, K)).astype(np.int8)
X = random.normal(size=(5, K)).astype(np.float32)


def packed(nibbles: NDArray) -> NDArray:
    """Two a byte, the first in the low half, as com.microsoft MatMulNBits has them."""
    return nibbles[..., ::2] | nibbles[..., 1::2] << 4


def written(path: Path, layers: list[tuple[list[onnx.NodeProto], list[TensorProto]]]) -> Path:
    """x [n, K] -> RMSNormalization -> two layers side by side -> their sum [n, N]."""
    gain = numpy_helper.from_array(random.uniform(0.5, 2, K).astype(np.float32), "gain")
    nodes = [helper.make_node("RMSNormalization", ["x", "gain"], ["h"], name="norm")]
    nodes += [node for made, _ in layers for node in made]
    nodes.append(helper.make_node("Add", ["y0", "y1"], ["y"], name="sum"))
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("x", K), ("y", N))]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [gain, *(t for _, tensors in layers for t in tensors)]
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    return path


def n_bits(
    index: int, scale_type: type, zeros: bool = False
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """MatMulNBits of 4 bits."""
    stored = {"w": packed(NIBBLES[index]).reshape(N, K // BLOCK, -1), "s": SCALES[index].astype(scale_type)}
    if zeros:
        stored["z"] = packed(ZEROS[index])
    return of_bits(index, 4, stored)


def of_bits(
    index: int, bits: int, stored: dict[str, NDArray]
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """MatMulNBits of what is stored: weights, scales, perhaps zero points."""
    node = helper.make_node(
        "MatMulNBits",
        ["h", *(f"{k}{index}" for k in stored)],
        [f"y{index}"],
        name=f"layer{index}",
        domain="com.microsoft",
        **{"K": K, "N": N, "bits": bits, "block_size": BLOCK},
    )
    return [node], [numpy_helper.from_array(v, f"{k}{index}") for k, v in stored.items()]


def qdq(index: int) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """DequantizeLinear of int4 [K, N] in blocks along K, then MatMul."""
    signed = NIBBLES[index].astype(np.int8) - 8
    w = helper.make_tensor(f"w{index}", TensorProto.INT4, [K, N], signed.T.reshape(-1))
    names = [f"w{index}", f"s{index}"]
    nodes = [
        helper.make_node(
            "DequantizeLinear", names, [f"d{index}"], name=f"d{index}", axis=0, block_size=BLOCK
        ),
        helper.make_node("MatMul", ["h", f"d{index}"], [f"y{index}"], name=f"layer{index}"),
    ]
    return nodes, [w, numpy_helper.from_array(np.ascontiguousarray(SCALES[index].T), f"s{index}")]


FLAVOURS = {
    "MatMulNBits": lambda i: n_bits(i, np.float32),
    "MatMulNBits, float16 scales": lambda i: n_bits(i, np.float16),
    "MatMulNBits, zero points": lambda i: n_bits(i, np.float32, zeros=True),
    "DequantizeLinear": qdq,
}


def bytes_of(least: int) -> Callable[[int], tuple[list[onnx.NodeProto], list[TensorProto]]]:
    """DequantizeLinear of int8 with a scale for each column of [K, N]."""

    def layer(index: int) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        stored = {"w": BYTES[index].T.clip(least, 127), "s": SCALES[index][:, 0], "z": np.zeros(N, np.int8)}
        nodes = [
            helper.make_node("DequantizeLinear", [f"{k}{index}" for k in stored], [f"d{index}"], axis=1),
            helper.make_node("MatMul", ["h", f"d{index}"], [f"y{index}"], name=f"layer{index}"),
        ]
        return nodes, [
            numpy_helper.from_array(np.ascontiguousarray(v), f"{k}{index}") for k, v in stored.items()
        ]

    return layer


def compiled(path: Path, **options: object) -> Model:
    ctx = PassContext(PassOptions(**{**PLAIN, **options}), ((X,),))
    return run_passes(load(path), compile_passes(), ctx, verify=True)


def weights(program: Model) -> tuple[NDArray, NDArray]:
    """Integers and scales of the two layers, which one linear has by now."""
    (name,) = (n for n in program.params if n.endswith(".q"))
    return program.params[name].value(), program.params[name.removesuffix(".q") + ".scale"].value()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("options", [{}, {"weights": "int4", "quantiser": "gptq"}], ids=["rtn", "gptq"])
def test_integers_and_scales_are_those_of_the_file(flavour, options, tmp_path) -> None:
    path = written(tmp_path / "m.onnx", [FLAVOURS[flavour](i) for i in range(2)])
    program = compiled(path, **options)
    zeros = np.repeat(ZEROS, BLOCK, 2) if "zero" in flavour else 8
    half = np.float16 if "float16" in flavour else np.float32
    same = [
        np.array_equal(weights(program)[0], (NIBBLES.astype(np.int8) - zeros).reshape(-1, K)),
        np.array_equal(weights(program)[1], SCALES.astype(half).astype(np.float32).reshape(-1, K // BLOCK)),
    ]
    fits = not ("zero" in flavour and "weights" in options)  # integer minus zero point has five bits
    assert same == [fits, fits]
    assert any("linears keep" in note for note in program.notes) == fits
    assert any("requantised: their bits" in note for note in program.notes) != fits


def test_bytes_with_a_scale_a_row_are_kept_unless_one_is_below_minus_127(tmp_path) -> None:
    kept = compiled(written(tmp_path / "m.onnx", [bytes_of(-127)(i) for i in range(2)]))
    np.testing.assert_array_equal(weights(kept)[0], BYTES.clip(-127).reshape(-1, K))
    np.testing.assert_array_equal(weights(kept)[1], SCALES[:, :, :1].reshape(-1, 1))
    other = compiled(written(tmp_path / "m.onnx", [bytes_of(-128)(i) for i in range(2)]))
    assert any("requantised: their bits" in note for note in other.notes)


@pytest.mark.parametrize("options", [{"smoothing": 0.5}, {"block": 16}, {"weights": "int2"}])
def test_weights_that_get_other_values_are_said_to_be_requantised(options, tmp_path) -> None:
    program = compiled(written(tmp_path / "m.onnx", [n_bits(i, np.float32) for i in range(2)]), **options)
    (note,) = (n for n in program.notes if n.startswith("quantise-weights"))
    assert "1 of 1 linears with integers are requantised: " in note
    assert not np.array_equal(weights(program)[1], SCALES.reshape(-1, K // BLOCK))


def test_blocks_that_cut_groups_of_thresholds_are_requantised(tmp_path) -> None:
    program = compiled(written(tmp_path / "m.onnx", [qdq(0), qdq(1)]), group=48, weights="int4")
    assert any("requantised: their bits or blocks" in note for note in program.notes)


def test_the_artefact_holds_the_bits_of_the_file(tmp_path) -> None:
    """From the CPU's packed weights: a word is 8 channels of a row, + 8, low halves of bytes first."""
    program = compiled(
        written(tmp_path / "m.onnx", [n_bits(i, np.float32) for i in range(2)]), weights="int4"
    )
    target, folder = CpuTarget((best_level().name,)), tmp_path / "artefact"
    folder.mkdir()
    built = target.build(program, None, folder, silent)
    stored = load_file(folder / "weights.safetensors")
    words = next(array for name, array in stored.items() if name.endswith(".q.packed"))
    scales = next(array for name, array in stored.items() if name.endswith(".scale.packed"))
    each = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 4)  # [blocks, G, words, rows, 4]
    halves = np.stack([each & 15, each >> 4], axis=-2)  # [blocks, G, words, rows, 2, 4]
    nibbles = halves.transpose(0, 3, 1, 2, 4, 5).reshape(-1, K)
    np.testing.assert_array_equal(nibbles[: 2 * N], NIBBLES.reshape(-1, K))
    np.testing.assert_array_equal(
        scales.transpose(0, 2, 1).reshape(-1, K // BLOCK)[: 2 * N], SCALES.reshape(-1, K // BLOCK)
    )
    got = next(iter(target.load(folder, built.manifest).call({"x": X}).values()))
    want, *_ = Evaluator(program).run("main", X)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


TERNARY = random.integers(-1, 2, (2, N, K), dtype=np.int8)


def ternary_bits(index: int) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """MatMulNBits of 2 bits, four a byte, + 2."""
    parts = (TERNARY[index] + 2).astype(np.uint8).reshape(N, K // BLOCK, -1, 4)
    words = (parts << np.arange(0, 8, 2, dtype=np.uint8)).sum(-1, np.uint8)
    return of_bits(index, 2, {"w": words, "s": SCALES[index]})


def ternary_nibbles(index: int) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """DequantizeLinear of int4 [K, N] in blocks along K."""
    nodes, (_, scale) = qdq(index)
    return nodes, [
        helper.make_tensor(f"w{index}", TensorProto.INT4, [K, N], TERNARY[index].T.reshape(-1)),
        scale,
    ]


@pytest.mark.parametrize("layer", [ternary_bits, ternary_nibbles])
def test_ternary_weights_lose_nothing_in_two_bits(layer, tmp_path) -> None:
    """Whatever type holds them in the file; the CPU's artefact has four a byte."""
    path = written(tmp_path / "m.onnx", [layer(i) for i in range(2)])
    program = compiled(path, weights="int2")
    np.testing.assert_array_equal(weights(program)[0], TERNARY.reshape(-1, K))
    np.testing.assert_array_equal(weights(program)[1], SCALES.reshape(-1, K // BLOCK))
    folder = tmp_path / "artefact"
    folder.mkdir()
    built = CpuTarget((best_level().name,)).build(program, None, folder, silent)
    stored = load_file(folder / "weights.safetensors")
    assert next(a for name, a in stored.items() if name.endswith(".q.packed")).nbytes == 2 * N * K // 4
    got = next(iter(CpuTarget((best_level().name,)).load(folder, built.manifest).call({"x": X}).values()))
    expected, *_ = Evaluator(program).run("main", X)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
