"""What onnxruntime's optimisers fuse, apart again: products, activations, embeddings with their norm.

Semantics: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from sdc.frontends.onnx.normalise.known_shapes import infer_known_shapes
from sdc.frontends.onnx.normalise.rewriting import (
    Outputs,
    allow,
    constant,
    given,
    places,
    refuse,
    replace_nodes,
)
from sdc.frontends.onnx.normalise.sizes import small_array

__all__ = ["split_fused_operations"]

ACTIVATIONS = frozenset(
    {"Relu", "Tanh", "Sigmoid"}
)  # without parameters of their own, as FusedGemm applies them


def split_fused_operations(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    rules = {
        "FusedGemm": _gemm,
        "Gelu": _gelu,
        "BiasGelu": _gelu,
        "FastGelu": _fast_gelu,
        "QuickGelu": _quick_gelu,
        "EmbedLayerNormalization": _embedding,
    }
    count = replace_nodes(model, rules, ("com.microsoft",)) + _unsplit(model)
    if count or _fused_products(model):
        infer_known_shapes(model)
    while found := _split_products(model):  # one product's shape may be what the next one's follows from
        count += found
        infer_known_shapes(model)
    return count


def _fused_products(model: ir.Model) -> list[ir.Node]:
    return [n for n in model.graph if n.op_type == "FusedMatMul" and n.domain == "com.microsoft"]


def _split_products(model: ir.Model) -> int:
    """Replaces each FusedMatMul whose operands are of known rank; the lifting refuses what is left."""
    known = [
        n for n in _fused_products(model) if all(x is not None and x.shape is not None for x in n.inputs)
    ]
    for node in known:
        tape = Tape()
        out, old = _product(tape, node), node.outputs[0]
        out.dtype, out.shape = old.dtype, old.shape
        model.graph.insert_before(node, tape.nodes)
        ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    return len(known)


def _unsplit(model: ir.Model) -> int:
    """Makes slices again what the optimiser had made one Split of.

    These are the halves that rotary embeddings swap, and single sizes of a shape.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "Split" or node.domain:
            continue
        sizes = _parts_of_shape(node) or _turned_halves(node)
        if sizes is None:
            continue
        tape, axis = Tape(), node.attributes.get_int("axis", 0)
        ends = np.cumsum(sizes).tolist()
        for old, size, end in zip(node.outputs, sizes, ends, strict=True):
            bounds = (end - size, end, axis, 1)
            part = tape.op("Slice", [node.inputs[0], *(constant(tape, [n]) for n in bounds)])
            part.dtype, part.shape = old.dtype, old.shape
            ir.convenience.replace_all_uses_with(old, part)
        model.graph.insert_before(node, tape.nodes)
        model.graph.remove(node, safe=True)
        count += 1
    return count


def _parts_of_shape(split: ir.Node) -> list[int] | None:
    """How many sizes each part of a shape has; None where it is not one, or that is not said."""
    sizes = small_array(given(split, 1))
    is_shape = all(out.dtype == ir.DataType.INT64 and len(out.shape or ()) == 1 for out in split.outputs)
    return None if sizes is None or not is_shape else [int(n) for n in sizes]


def _turned_halves(split: ir.Node) -> list[int] | None:
    """Twice the channels of a half, where the halves are those of a rotary embedding."""
    if len(split.outputs) != 2 or not _is_turned(split):
        return None
    half = split.outputs[0].shape[-1] if split.outputs[0].shape is not None else None
    return [half, half] if isinstance(half, int) else None


def _is_turned(split: ir.Node) -> bool:
    """Whether the second part is negated and joined before the first, which is as wide."""
    first, second = split.outputs
    if first.shape is None or second.shape is None or first.shape[-1] != second.shape[-1]:
        return False
    negated = [use.node for use in second.uses() if use.node.op_type == "Neg"]
    return any(
        joined.node.op_type == "Concat" and list(joined.node.inputs)[1:] == [first]
        for neg in negated
        for joined in neg.outputs[0].uses()
    )


def _product(tape: Tape, node: ir.Node) -> ir.Value:
    """alpha * A' B', each operand's last two axes swapped where asked for."""
    allow(node, ("alpha", "transA", "transB", "transBatchA", "transBatchB"), inputs=range(2))
    if node.attributes.get_int("transBatchA", 0) or node.attributes.get_int("transBatchB", 0):
        raise refuse(node, "an operand whose first axis is moved")
    a, b = (_turned(tape, node, x, f"trans{n}") for n, x in zip("AB", node.inputs, strict=True))
    return _scaled(tape, tape.op("MatMul", [a, b]), node.attributes.get_float("alpha", 1.0))


def _turned(tape: Tape, node: ir.Node, x: ir.Value | None, flag: str) -> ir.Value | None:
    if not node.attributes.get_int(flag, 0) or x is None or x.shape is None or len(x.shape) < 2:
        return x  # a vector stays as it is
    rank = len(x.shape)
    axes = [*range(rank - 2), rank - 1, rank - 2]
    turned = tape.op("Transpose", [x], {"perm": axes})
    turned.dtype, turned.shape = x.dtype, ir.Shape([x.shape[i] for i in axes])
    return turned


def _scaled(tape: Tape, x: ir.Value, factor: float) -> ir.Value:
    if factor == 1.0:
        return x
    return tape.op("Mul", [x, tape.op("Constant", [], {"value": ir.tensor(np.float32(factor))})])


def _gemm(tape: Tape, node: ir.Node) -> Outputs:
    names = ("alpha", "beta", "transA", "transB")
    allow(node, (*names, "activation"), inputs=range(3))
    kind = node.attributes.get_string("activation", "")
    if kind not in ACTIVATIONS:
        raise refuse(node, f"activation {kind}")
    kept = {n: node.attributes[n] for n in names if n in node.attributes}
    out = tape.op("Gemm", node.inputs, kept)
    out.dtype, out.shape = node.outputs[0].dtype, node.outputs[0].shape
    return [tape.op(kind, [out])]


def _gelu(tape: Tape, node: ir.Node) -> Outputs:
    allow(node, (), inputs=range(2))
    return [tape.op("Gelu", [_with_bias(tape, node)])]


def _fast_gelu(tape: Tape, node: ir.Node) -> Outputs:
    allow(node, (), inputs=range(2))
    return [tape.op("Gelu", [_with_bias(tape, node)], {"approximate": "tanh"})]


def _with_bias(tape: Tape, node: ir.Node) -> ir.Value | None:
    x, bias = node.inputs[0], given(node, 1)
    if bias is None or x is None:
        return x
    total = tape.op("Add", [x, bias])
    total.dtype, total.shape = x.dtype, x.shape
    return total


def _quick_gelu(tape: Tape, node: ir.Node) -> Outputs:
    """x * sigmoid(alpha * x); SiLU where alpha is 1."""
    allow(node, ("alpha",), inputs=(0,))
    x = node.inputs[0]
    assert x is not None
    gate = _scaled(tape, x, node.attributes.get_float("alpha", 1.702))
    return [tape.op("Mul", [x, tape.op("Sigmoid", [gate])])]


def _embedding(tape: Tape, node: ir.Node) -> Outputs:
    """Rows of tokens, positions and segments, added and normalised; the sum is the third output.

    The second output is how many tokens a mask shows, for each sequence.
    """
    allow(node, ("epsilon", "mask_index_type"), inputs=range(9))
    ids, segments, words, positions, kinds, gain, shift = node.inputs[:7]
    where = given(node, 8)
    if where is None:
        where = tape.op("Unsqueeze", [places(tape, ids), constant(tape, [0])])
    total = tape.op("Add", [tape.op("Gather", [words, ids]), tape.op("Gather", [positions, where])])
    if segments is not None and kinds is not None:
        total = tape.op("Add", [total, tape.op("Gather", [kinds, segments])])
    total.dtype, total.shape = node.outputs[0].dtype, node.outputs[0].shape
    epsilon = {"epsilon": node.attributes.get_float("epsilon", 1e-12)}
    counts = None if (mask := given(node, 7)) is None else _shown(tape, mask)
    return [tape.op("LayerNormalization", [total, gain, shift], epsilon), counts, total]


def _shown(tape: Tape, mask: ir.Value) -> ir.Value:
    """int32 [batch] from a mask int32 [batch, seq]."""
    counts = tape.op("ReduceSum", [mask, constant(tape, [1])], {"keepdims": 0})
    counts.dtype, counts.shape = mask.dtype, None if mask.shape is None else ir.Shape([mask.shape[0]])
    return counts
