"""The long tail: a Relax operation without a NumPy reference runs through TVM's own lowering."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

__all__ = ["run_operation"]


def run_operation(expr: relax.Call, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    """Runs one Relax operation on concrete arrays, compiled by TVM for these shapes.

    Args:
        expr: The call (for its operator and attributes).
        args: Values of the arguments: arrays, or tuples of them; shapes stay as they are.
        attrs: The attributes as plain values (part of the compilation's key).
    """
    arrays, layout = _flatten(args)
    key = (str(expr.op.name), repr(attrs), layout, tuple((a.shape, str(a.dtype)) for a in arrays))
    machine = _compiled(_Key(key, expr))
    result = machine["main"](*[tvm.runtime.tensor(np.array(a, order="C")) for a in arrays])
    return _to_numpy(result)


class _Key:
    """Hashes by what the compilation depends on, and carries the call."""

    def __init__(self, key: tuple[Any, ...], expr: relax.Call) -> None:
        self.key, self.expr = key, expr

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.key == other.key


@lru_cache(maxsize=256)
def _compiled(key: _Key) -> Any:
    _, _, layout, types = key.key
    params = [relax.Var(f"x{i}", relax.TensorType(list(s), d)) for i, (s, d) in enumerate(types)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            call = relax.Call(key.expr.op, _restore(layout, params), key.expr.attrs)
            out = builder.emit_output(call)
        builder.emit_func_output(out)
    module = relax.transform.LegalizeOps()(builder.get())
    return relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())


def _flatten(args: tuple[Any, ...]) -> tuple[list[Any], tuple[Any, ...]]:
    """Arrays in order, and a hashable layout that says where they go."""
    arrays: list[Any] = []

    def visit(value: Any) -> Any:
        if isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            return ("shape", value)
        if isinstance(value, tuple):
            return ("tuple", tuple(visit(v) for v in value))
        if isinstance(value, int | float):
            return ("value", value)
        arrays.append(value)
        return ("array", len(arrays) - 1)

    return arrays, tuple(visit(a) for a in args)


def _restore(layout: tuple[Any, ...], params: list[Any]) -> list[Any]:
    def visit(entry: Any) -> Any:
        kind, value = entry
        if kind == "array":
            return params[value]
        if kind == "shape":
            return relax.ShapeExpr(list(value))
        if kind == "tuple":
            return relax.Tuple([visit(v) for v in value])
        if isinstance(value, float):
            return tirx.FloatImm("float32", value)
        return tirx.IntImm("int64", value)

    return [visit(e) for e in layout]


def _to_numpy(result: Any) -> Any:
    if hasattr(result, "numpy"):
        return result.numpy()
    return tuple(_to_numpy(r) for r in result)
