"""Shapes where an exporter leaves them out, and the numbers that follow from them.

The TorchScript exporter writes the bounds of a slice as Gather(Shape(x)) / 2 and no shapes of values. ONNX's
own inference finds the shapes; integers computed from dimensions that are known then become constants.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape
from onnxscript.optimizer import fold_constants

from sdc.frontends.onnx.normalise.sizes import LONGEST, Sizes, small_array

__all__ = ["infer_known_shapes"]


def infer_known_shapes(model: ir.Model) -> int:
    """Where types or shapes are left out, finds them in place; returns how many values became numbers."""
    if all(v.dtype is not None and v.shape is not None for node in model.graph for v in node.outputs):
        return 0
    count = 0
    while True:
        for value in (v for node in model.graph for v in node.outputs if v.dtype is None):
            value.type = None  # a type without an element type cannot be serialised, as inference has to
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
        found = _fold_numbers(model.graph)
        fold_constants(model, input_size_limit=LONGEST, output_size_limit=LONGEST)
        for value in model.graph.initializers.values():  # folded values keep the shapes they had before
            value.shape = value.const_value.shape if value.const_value is not None else value.shape
        count += found
        if not found:
            return count


def _fold_numbers(graph: ir.Graph) -> int:
    sizes = Sizes()
    count = 0
    for node in list(graph):
        if node.domain or len(node.outputs) != 1 or node.op_type == "Constant":
            continue
        out = node.outputs[0]
        if node.op_type == "Expand":
            count += _expanded(node, sizes)
        elif node.op_type == "Reshape":
            count += _reshaped(node, sizes)
        elif node.op_type == "ConstantOfShape":
            count += _filled(graph, node)
        found = sizes.elements(out)
        if found is None or not all(isinstance(e, int) for e in found) or not out.uses():
            continue
        if out.dtype not in (ir.DataType.INT64, None) or len(out.shape or (0, 0)) > 1:
            continue
        tape = Tape()
        array = np.array(found, np.int64).reshape([len(found)] * len(out.shape or ()))
        number = tape.op("Constant", [], {"value": ir.tensor(array)})
        number.dtype, number.shape = ir.DataType.INT64, out.shape
        graph.insert_before(node, tape.nodes)
        ir.convenience.replace_all_uses_with(out, number)
        count += 1
    return count


def _filled(graph: ir.Graph, node: ir.Node) -> int:
    """Makes a ConstantOfShape of a few elements a Constant; 1 if it was one."""
    shape, out = small_array(node.inputs[0]), node.outputs[0]
    if shape is None or np.prod(shape) > LONGEST or not out.uses():
        return 0
    fill = node.attributes.get_tensor("value", None)
    number = np.zeros((), np.float32) if fill is None else fill.numpy().reshape(())
    tape = Tape()
    constant = tape.op("Constant", [], {"value": ir.tensor(np.full(shape.tolist(), number))})
    constant.dtype, constant.shape = out.dtype, out.shape
    graph.insert_before(node, tape.nodes)
    ir.convenience.replace_all_uses_with(out, constant)
    return 1


def _reshaped(node: ir.Node, sizes: Sizes) -> int:
    """Where inference found no shape, sets what the wanted one says, at least the rank; 1 if it did."""
    x, wanted = node.inputs[:2]
    out = node.outputs[0]
    rank = next(iter(wanted.shape), None) if wanted is not None and wanted.shape is not None else None
    old = list(out.shape) if out.shape is not None else []
    out.dtype = out.dtype or (None if x is None else x.dtype)
    if out.dtype is None or not isinstance(rank, int) or any(_is_known(d) for d in old):
        return 0
    known = sizes.elements(wanted) or [None] * rank
    out.shape = ir.Shape([d if isinstance(d, int) and d > 0 else None for d in known])
    return int(list(out.shape) != old)


def _is_known(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) or dim.value is not None


def _expanded(node: ir.Node, sizes: Sizes) -> int:
    """Sets an Expand's dimensions that are numbers, hidden from inference by Where; 1 if any is new."""
    x, wanted = node.inputs[:2]
    dims = sizes.elements(wanted)
    if x is None or x.shape is None or dims is None or len(dims) != len(x.shape):
        return 0
    out = node.outputs[0]
    old = out.shape if out.shape is not None and len(out.shape) == len(dims) else [None] * len(dims)
    new = [
        next((d for d in pair if isinstance(d, int) and d != 1), 1 if pair == (1, 1) else before)
        for pair, before in zip(zip(dims, x.shape, strict=True), old, strict=True)
    ]
    if new == list(old):
        return 0
    out.shape = ir.Shape(new)
    return 1
