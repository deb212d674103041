"""Operations on constants that stay lazy: they become transforms of the weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sdc.frontends.onnx.normalise.float_casts import FLOATS
from sdc.ir.params import Param, Permute, Reshape, SliceRows, Transpose
from sdc.ir.quantised import Dequantise

__all__ = ["LAZY", "transposed"]

WIDE = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT32, ir.DataType.UINT64})


class ParamOf(Protocol):
    """What is needed of a lifter."""

    def param(self, value: Any) -> Param:
        """A constant as a lazy weight."""
        ...

    def array(self, value: Any) -> NDArray:
        """The number of a constant."""
        ...


def _lazy_transpose(lifter: ParamOf, node: ir.Node) -> Param | None:
    if _is_wide(node.inputs[0]):
        return None
    param = lifter.param(node.inputs[0])
    axes = tuple(node.attributes.get_ints("perm", list(range(len(param.shape)))[::-1]))
    if axes != (1, 0):
        return param.then(Permute(axes), name=str(node.outputs[0].name))
    return transposed(param)


def transposed(param: Param) -> Param:
    """The transpose of a matrix; of a transpose, the original."""
    if param.transforms and isinstance(param.transforms[-1], Transpose):
        shape = (param.shape[1], param.shape[0])
        name = param.name.removesuffix(".T")
        return Param(name, shape, param.dtype, param.source, param.transforms[:-1])
    return param.then(Transpose(), name=f"{param.name}.T")


def _lazy_reshape(lifter: ParamOf, node: ir.Node) -> Param | None:
    if _is_wide(node.inputs[0]):
        return None
    param = lifter.param(node.inputs[0])
    wanted = [int(d) for d in lifter.array(node.inputs[1])]
    known = int(np.prod([d for d in wanted if d > 0]))
    size = int(np.prod(param.shape))
    shape = tuple(d if d > 0 else size // known for d in wanted)
    return param.then(Reshape(shape), name=str(node.outputs[0].name))


def _lazy_cast(lifter: ParamOf, node: ir.Node) -> Param | None:
    """Weights are float32 whatever they are stored in; a cast to integers rounds, so it is none of these."""
    target = node.attributes.get_int("to", 0)  # Identity has none
    return lifter.param(node.inputs[0]) if not target or ir.DataType(target) in FLOATS else None


def _is_wide(value: Any) -> bool:
    """Whether float32, in which weights are, does not hold every number of a constant's type."""
    tensor = value.const_value
    return (value.dtype if tensor is None else tensor.dtype) in WIDE


def _lazy_slice(lifter: ParamOf, node: ir.Node) -> Param | None:
    """Rows of axis 0."""
    if _is_wide(node.inputs[0]):
        return None
    bounds = [[int(n) for n in lifter.array(v)] for v in node.inputs[1:] if v is not None]
    param = lifter.param(node.inputs[0])
    if len(bounds) < 3 or bounds[2] != [0] or bounds[3:] not in ([], [[1]]):
        return None
    start, stop, _ = slice(bounds[0][0], bounds[1][0]).indices(param.shape[0])
    return param.then(SliceRows(start, stop), name=str(node.outputs[0].name))


def _lazy_dequantise(lifter: ParamOf, node: ir.Node) -> Param:
    scale, zero = (lifter.param(v) if v is not None else None for v in (*node.inputs[1:], None)[:2])
    assert scale is not None
    axis, block = (node.attributes.get_int(n, d) for n, d in (("axis", 1), ("block_size", 0)))
    param = lifter.param(node.inputs[0])
    kind = str(node.inputs[0].dtype.numpy())
    step = Dequantise(scale, zero, axis % max(len(param.shape), 1), block, kind)
    return param.then(step, name=str(node.outputs[0].name))


LAZY: dict[str, Callable[[ParamOf, ir.Node], Param | None]] = {
    "Transpose": _lazy_transpose,
    "Reshape": _lazy_reshape,
    "Cast": _lazy_cast,
    "Identity": _lazy_cast,
    "Slice": _lazy_slice,
    "DequantizeLinear": _lazy_dequantise,
}
