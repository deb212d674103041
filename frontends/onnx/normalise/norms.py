"""Decomposed norms that the stock fusions leave, as the TorchScript exporter writes them.

RMS: x * (1 / Sqrt(ReduceMean(x^2) + eps)) * gain. Layer norm, before opset 17: with d = x - ReduceMean(x),
d / Sqrt(ReduceMean(d^2) + eps) * gain + shift. Both over the last axis, with a stored gain and shift.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

__all__ = ["fuse_norms"]


def fuse_norms(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    matches: dict[str, Callable[[Tape, ir.Node], ir.Value | None]] = {"Mul": _rms_norm, "Add": _layer_norm}
    count = 0
    for node in list(model.graph):
        tape = Tape()
        fused = matches[node.op_type](tape, node) if node.op_type in matches and not node.domain else None
        if fused is None:
            continue
        old = node.outputs[0]
        fused.shape, fused.dtype = old.shape, old.dtype
        model.graph.insert_before(node, tape.nodes)
        ir.convenience.replace_all_uses_with(old, fused, replace_graph_outputs=True)
        count += 1
    return count


def _rms_norm(tape: Tape, last: ir.Node) -> ir.Value | None:
    for gain, normal in (last.inputs, reversed(last.inputs)):
        product = _producer(normal, "Mul")
        if product is None or not _is_stored(gain):
            continue
        for x, factor in (product.inputs, reversed(product.inputs)):
            inverse = _producer(factor, "Div")
            if inverse is None or _number(inverse.inputs[0]) != 1:
                continue
            squared, epsilon = _root_of_mean_square(inverse.inputs[1])
            if squared is x and x is not None:
                return tape.op("RMSNormalization", [x, gain], {"epsilon": epsilon})
    return None


def _layer_norm(tape: Tape, last: ir.Node) -> ir.Value | None:
    for shift, scaled in (last.inputs, reversed(last.inputs)):
        product = _producer(scaled, "Mul")
        if product is None or not _is_stored(shift):
            continue
        for gain, normal in (product.inputs, reversed(product.inputs)):
            ratio = _producer(normal, "Div")
            if ratio is None or not _is_stored(gain):
                continue
            centred, epsilon = _root_of_mean_square(ratio.inputs[1])
            difference = _producer(ratio.inputs[0], "Sub")
            if centred is not ratio.inputs[0] or difference is None:
                continue
            x = difference.inputs[0]
            if _mean_of(difference.inputs[1]) is x and x is not None:
                return tape.op("LayerNormalization", [x, gain, shift], {"epsilon": epsilon})
    return None


def _root_of_mean_square(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """x and eps of Sqrt(ReduceMean(Pow(x, 2)) + eps)."""
    root = _producer(value, "Sqrt")
    total = _producer(root.inputs[0], "Add") if root is not None else None
    if total is None:
        return None, 0.0
    epsilon = _number(total.inputs[1])
    square = _producer(_mean_of(total.inputs[0]), "Pow")
    if epsilon is None or square is None or _number(square.inputs[1]) != 2:
        return None, 0.0
    return square.inputs[0], epsilon


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """What a mean over the last axis, kept, is of."""
    mean = _producer(value, "ReduceMean")
    if mean is None or not mean.attributes.get_int("keepdims", 1):
        return None
    axes = list(mean.attributes.get_ints("axes", []))
    if len(mean.inputs) > 1 and mean.inputs[1] is not None:
        stored = ir.convenience.get_const_tensor(mean.inputs[1])
        axes = [] if stored is None else [int(a) for a in stored.numpy().reshape(-1)]
    return mean.inputs[0] if axes == [-1] else None


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and not node.domain else None


def _is_stored(value: ir.Value | None) -> bool:
    """A vector of the file, or one computed from such and numbers alone (1 + gain, Gemma)."""
    if value is None:
        return False
    if ir.convenience.get_const_tensor(value) is not None:
        return len(value.shape or ()) == 1
    node = value.producer()
    inputs = [] if node is None else [v for v in node.inputs if v is not None]
    return bool(inputs) and all(_number(v) is not None or _is_stored(v) for v in inputs)


def _number(value: ir.Value | None) -> float | None:
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    if constant is None or constant.size != 1:
        return None
    return float(np.asarray(constant.numpy(), np.float64).reshape(()))
