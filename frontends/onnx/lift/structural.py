"""Values that depend on shapes and positions alone: symbolic dimensions, and numbers for given sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tvm import tirx

from sdc.ir.evaluate.symbolic import evaluate_prim

__all__ = ["Interpreter", "symbolic"]

Dims = tuple[Any, ...]
_UNKNOWN = object()


class Interpreter:
    """Finds the number of a structural value for given sizes, node by node with ONNX's own reference.

    Args:
        shape_of: The symbolic shape of any value.
        inputs: The number of a graph input that may be read (masks, position ids) for given sizes.
        sizes: A size for each symbolic dimension.
        runners: Of the nodes that were asked before, for other sizes, by id; others are added.
    """

    def __init__(
        self,
        shape_of: Callable[[ir.Value], Dims | None],
        inputs: Callable[[ir.Value, Mapping[Any, int]], NDArray],
        sizes: Mapping[Any, int],
        runners: dict[int, ReferenceEvaluator],
    ) -> None:
        self.shape_of, self.inputs, self.sizes, self.runners = shape_of, inputs, dict(sizes), runners
        self.known: dict[int, Any] = {}

    def number(self, value: ir.Value) -> NDArray:
        """The value's array; float16 is taken as float32."""
        if id(value) in self.known:
            return self.known[id(value)]
        constant = ir.convenience.get_const_tensor(value)
        if constant is not None:
            result = _single(constant.numpy())
        elif value.producer() is None:
            result = self.inputs(value, self.sizes)
        else:
            self._run(value.producer())
            return self.known[id(value)]
        self.known[id(value)] = result
        return result

    def _run(self, node: ir.Node) -> None:
        if node.op_type == "Shape":
            dims = self.shape_of(node.inputs[0])
            if dims is not None:
                whole = np.array([evaluate_prim(d, self.sizes) for d in dims], np.int64)
                start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(whole))
                self.known[id(node.outputs[0])] = whole[start:end]
                return
        if node.op_type == "GatherElements":  # the reference of onnx 1.23 fails on first axes of 1
            data, index = (self.number(v) for v in node.inputs if v is not None)
            axis = node.attributes.get_int("axis", 0)
            self.known[id(node.outputs[0])] = np.take_along_axis(data, index, axis)
            return
        feeds = {v.name: self.number(v) for v in node.inputs if v is not None}
        if id(node) not in self.runners:
            self.runners[id(node)] = ReferenceEvaluator(ir.serde.serialize_node(node), opsets={"": 23})
        with np.errstate(over="ignore"):  # two masks of the lowest float32 add up to -inf
            arrays = self.runners[id(node)].run(None, feeds)
        for out, array in zip(node.outputs, arrays, strict=True):
            self.known[id(out)] = _single(np.asarray(array))


def _single(array: NDArray) -> NDArray:
    """float16 and bfloat16 as float32, as everywhere."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def symbolic(
    node: ir.Node, inputs: Sequence[Dims | None], constant: Callable[[int], NDArray | None]
) -> Dims | None:
    """The elements of a shape computation as expressions, or None where it is not one.

    Args:
        node: The node that makes the value.
        inputs: The elements of each input, None where unknown.
        constant: The number of a constant input by index.
    """
    rule = _RULES.get(node.op_type)
    if rule is None or not inputs or any(d is None for d in inputs[:1]):
        return None
    return rule(node, inputs, constant)


def _keep(_node: ir.Node, inputs: Sequence[Dims | None], _constant: Any) -> Dims | None:
    return inputs[0]


def _concat(_node: ir.Node, inputs: Sequence[Any], _constant: Any) -> Dims | None:
    return None if any(d is None for d in inputs) else tuple(e for d in inputs for e in d)


def _gather(_node: ir.Node, inputs: Sequence[Any], constant: Any) -> Dims | None:
    index = constant(1)
    return None if index is None else tuple(inputs[0][int(i)] for i in index.reshape(-1))


def _slice(_node: ir.Node, inputs: Sequence[Any], constant: Any) -> Dims | None:
    bounds = [constant(i) for i in range(1, len(inputs))]
    if any(b is None or b.size != 1 for b in bounds):
        return None
    start, end = int(bounds[0].reshape(())), int(bounds[1].reshape(()))
    step = int(bounds[3].reshape(())) if len(bounds) > 3 else 1
    return inputs[0][start:end:step]


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[..., Dims | None]:
    def rule(_node: ir.Node, inputs: Sequence[Dims | None], _constant: Any) -> Dims | None:
        a, b = inputs
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        length = max(len(a), len(b))
        return tuple(function(a[i % len(a)], b[i % len(b)]) for i in range(length))

    return rule


def _constant_of_shape(node: ir.Node, inputs: Sequence[Any], _constant: Any) -> Dims | None:
    if len(inputs[0]) != 1 or not isinstance(inputs[0][0], int):
        return None
    fill = node.attributes.get_tensor("value", None)
    return (0 if fill is None else int(fill.numpy().reshape(())),) * inputs[0][0]


def _equal(a: Any, b: Any) -> Any:
    """1 or 0; a dimension is never the -1 that stands for "as it is"."""
    if isinstance(a, int) and isinstance(b, int):
        return int(a == b)
    number = a if isinstance(a, int) else b
    return 0 if isinstance(number, int) and number < 0 else _UNKNOWN


def _where(_node: ir.Node, inputs: Sequence[Any], _constant: Any) -> Dims | None:
    if any(d is None for d in inputs) or _UNKNOWN in inputs[0] or len({len(d) for d in inputs}) != 1:
        return None
    return tuple(a if chosen else b for chosen, a, b in zip(*inputs, strict=True))


def _divide(a: Any, b: Any) -> Any:
    return a // b if isinstance(a, int) and isinstance(b, int) else tirx.floordiv(a, b)


_RULES: dict[str, Callable[..., Dims | None]] = {
    "Squeeze": _keep,
    "Unsqueeze": _keep,
    "Reshape": _keep,
    "Cast": _keep,
    "Identity": _keep,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
    "Equal": _arithmetic(_equal),
    "Where": _where,
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Div": _arithmetic(_divide),
}
