"""How an operation of the dialect is registered with TVM, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.transform.legalize_ops.common import register_legalize
from tvm_ffi import Array

__all__ = [
    "OPS",
    "OpSpec",
    "attributes",
    "call",
    "dtype_of",
    "is_dimension",
    "is_op",
    "register",
    "shape_of",
    "static",
    "tensor",
]

Reference = Callable[..., Any]
Infer = Callable[[relax.Call], tvm.ir.Type]
Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


@dataclass(frozen=True)
class OpSpec:
    """One operation: its name without ``relax.sdc.``, what it means, and its semantics in NumPy."""

    name: str
    doc: str
    reference: Reference


OPS: dict[str, OpSpec] = {}


def register(name: str, infer: Infer, reference: Reference, legalize: Legalize, doc: str) -> None:
    """Registers ``relax.sdc.<name>``: shape inference, purity, naive legalisation, reference semantics."""
    full = f"relax.sdc.{name}"
    tvm.ir._ffi_api.RegisterOp(full, doc)
    tvm.ir.op.register_op_attr(full, "FInferType", lambda node, _builder: infer(node))
    tvm.ir.op.register_op_attr(full, "FPurity", True)
    register_legalize(full, legalize)
    OPS[name] = OpSpec(name, doc, reference)


def call(name: str, args: list[relax.Expr], attrs: Mapping[str, Any]) -> relax.Call:
    """A call of ``relax.sdc.<name>`` with attributes."""
    return relax.Call(
        tvm.ir.Op.get(f"relax.sdc.{name}"), args, attrs=tvm.ir.make_node("ir.DictAttrs", **attrs)
    )


def is_op(expr: object, name: str) -> bool:
    """Whether ``expr`` is a call of ``relax.<name>``, e.g. ``sdc.linear`` or ``nn.rms_norm``."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == f"relax.{name}"


def is_dimension(expr: object) -> bool:
    """Whether ``expr`` is a symbolic dimension, in TVM 0.27 of the same class as tensor variables."""
    return isinstance(expr, relax.Var) and isinstance(expr.ty, tvm.ir.PrimType)


def attributes(node: relax.Call) -> dict[str, Any]:
    """The attributes of a call as plain Python values."""
    attrs = node.attrs
    if attrs is None:
        return {}
    if isinstance(attrs, tvm.ir.DictAttrs):
        return {str(k): _plain(v) for k, v in attrs.items()}
    fields = (f.name for f in type(attrs).__tvm_ffi_type_info__.fields)
    return {name: _plain(getattr(attrs, name)) for name in fields if name != "span"}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, tirx.IntImm | tirx.FloatImm):
        return value.value
    if isinstance(value, Array | list | tuple):
        return [_plain(v) for v in value]
    return value


def shape_of(expr: relax.Expr, name: str) -> list[Any]:
    """The shape of a tensor argument: integers, and TVM expressions where a dimension is symbolic.

    Raises:
        ValueError: The argument is no tensor of known shape.
    """
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or ty.shape is None:
        raise ValueError(f"sdc.{name}: argument must be a tensor of known rank and shape, got {ty}")
    values = ty.shape.values if isinstance(ty.shape, relax.ShapeExpr) else ty.shape.ty.values
    return [int(v.value) if isinstance(v, tirx.IntImm) else v for v in values]


def static(value: Any, name: str, what: str) -> int:
    """A dimension that must be known when compiling.

    Raises:
        ValueError: It is symbolic.
    """
    if isinstance(value, int):
        return value
    raise ValueError(f"sdc.{name}: {what} must be known when compiling, got {value}")


def dtype_of(expr: relax.Expr) -> str:
    """The dtype of a tensor argument."""
    return str(expr.ty.dtype)


def tensor(shape: list[Any], dtype: str) -> relax.TensorType:
    """A tensor type; integers of the shape become int64 immediates."""
    return relax.TensorType([tirx.IntImm("int64", d) if isinstance(d, int) else d for d in shape], dtype)
