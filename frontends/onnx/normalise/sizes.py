"""What small integer tensors hold, as integers and symbolic dimensions, by the nodes that make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import tirx
from tvm_ffi import structural_equal

from sdc.frontends.onnx.lift.structural import symbolic

__all__ = ["LONGEST", "Sizes", "same_sizes", "small_array"]

LONGEST = 16  # elements of a shape computation


class Sizes:
    """Remembers what it has found; make another one after the graph has changed."""

    def __init__(self) -> None:
        self._symbols: dict[Any, tirx.Var] = {}
        self._known: dict[ir.Value, tuple[Any, ...] | None] = {}

    def shape(self, value: ir.Value | None) -> tuple[Any, ...] | None:
        """The shape of a value; those of one name are one symbol, one without a name is like no other."""
        if value is None or value.shape is None:
            return None
        return tuple(
            d if isinstance(d, int) else self._symbol(d.value or (value, axis))
            for axis, d in enumerate(value.shape)
        )

    def elements(self, value: ir.Value | None) -> tuple[Any, ...] | None:
        """The elements of a value of no more than one axis; None where they are not known."""
        array = small_array(value)
        if value is None:
            return None
        if array is not None:
            return tuple(int(x) for x in array.reshape(-1)) if array.dtype.kind in "iu" else None
        if value not in self._known:
            node = value.producer()
            self._known[value] = None if node is None or node.domain else self._made(node)
        return self._known[value]

    def _made(self, node: ir.Node) -> tuple[Any, ...] | None:
        if node.op_type == "Shape":
            dims = self.shape(node.inputs[0])
            start = node.attributes.get_int("start", 0)
            return None if dims is None else dims[start : node.attributes.get_int("end", len(dims))]
        inputs = [self.elements(v) for v in node.inputs if v is not None]
        return symbolic(node, inputs, lambda i: small_array(node.inputs[i]))

    def _symbol(self, key: Any) -> tirx.Var:
        return self._symbols.setdefault(key, tirx.Var(key if isinstance(key, str) else "unknown", "int64"))


def same_sizes(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether sizes are known to be equal, one by one."""
    return len(a) == len(b) and all(structural_equal(x, y) for x, y in zip(a, b, strict=True))


def small_array(value: ir.Value | None) -> np.ndarray | None:
    """The number of a constant of a few elements, else None."""
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if constant is None or constant.size > LONGEST else constant.numpy()
