"""A function's bindings with producers and readers, and the tensors that are only another shape of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from sdc.errors import TargetError
from sdc.ir.ops import is_dimension, is_op, shape_of

__all__ = ["Graph", "reads", "rows_and_width"]

_VIEWS = ("reshape", "squeeze", "expand_dims", "flatten")  # of contiguous data


class Graph:
    """Lookups on a straight-line function.

    A reshape gives the same data another shape, and costs nothing. So producers and readers are those of a
    tensor's :meth:`root`, the variable that all its views stem from.

    Raises:
        TargetError: The function has control flow.
    """

    def __init__(self, function: relax.Function) -> None:
        self.function = function
        self.num_input = int(function.attrs["num_input"])
        params = list(function.params)
        self.inputs, self.weights = params[: self.num_input], set(params[self.num_input :])
        self.bindings = [b for block in function.body.blocks for b in block.bindings]
        self.producer: dict[Any, Any] = {}
        self._roots: dict[Any, Any] = {}
        for binding in self.bindings:
            if isinstance(binding.value, relax.If | relax.Function):
                raise TargetError(f"{binding.var.name}: control flow cannot be compiled; unroll it")
            self.producer[binding.var] = binding.value
            if any(is_op(binding.value, name) for name in _VIEWS):
                self._roots[binding.var] = self.root(binding.value.args[0])
            elif isinstance(binding.value, relax.Var):
                self._roots[binding.var] = self.root(binding.value)
        self.outputs = self._take_apart(function.body.body)
        self.returned = {self.root(v) for v in self.outputs}
        self.result_tuples = self._tuples(function.body.body)
        self.readers: dict[Any, list[Any]] = {}
        for binding in self.bindings:
            if binding.var not in self._roots and binding.var not in self.result_tuples:
                for var in dict.fromkeys(self.root(v) for v in reads(binding.value)):
                    self.readers.setdefault(var, []).append(binding.var)

    def root(self, var: Any) -> Any:
        """The tensor whose data ``var`` has, in whatever shape."""
        return self._roots.get(var, var)

    def is_view(self, var: Any) -> bool:
        """Whether ``var`` is another variable's data."""
        return var in self._roots

    def _take_apart(self, result: Any) -> list[Any]:
        value = self.producer.get(result) if isinstance(result, relax.Var) else result
        if isinstance(value, relax.Var):
            return self._take_apart(value)
        if isinstance(value, relax.Tuple):
            return [v for field in value.fields for v in self._take_apart(field)]
        return [result]

    def _tuples(self, result: Any) -> set[Any]:
        """Variables that only hold the tuple of the outputs: returning is not reading."""
        found = set()
        while isinstance(result, relax.Var) and isinstance(
            self.producer.get(result), relax.Var | relax.Tuple
        ):
            found.add(result)
            result = self.producer[result]
        return found

    def call(self, var: Any, *names: str) -> Any:
        """The call that computes ``var``'s data, if it is one of the named operations."""
        value = self.producer.get(self.root(var)) if isinstance(var, relax.Var) else None
        return value if any(is_op(value, name) for name in names) else None

    def sole_reader(self, var: Any) -> Any:
        """The only variable computed from ``var``; None where there are more, or it is an output."""
        readers = self.readers.get(self.root(var), [])
        return readers[0] if len(readers) == 1 and self.root(var) not in self.returned else None

    def item(self, var: Any) -> tuple[Any, int] | None:
        """(tuple variable, index) where ``var`` is an item of a tuple."""
        value = self.producer.get(self.root(var)) if isinstance(var, relax.Var) else None
        return (value.tuple_value, int(value.index)) if isinstance(value, relax.TupleGetItem) else None

    def items(self, var: Any) -> dict[int, Any]:
        """The variables that hold the items of a tuple variable, by index."""
        found = {}
        for reader in self.readers.get(var, []):
            value = self.producer[reader]
            if isinstance(value, relax.TupleGetItem):
                found[int(value.index)] = reader
        return found

    def weight(self, var: Any) -> Any:
        """``var`` where it is a weight as stored, else None."""
        root = self.root(var) if isinstance(var, relax.Var) else None
        return root if root in self.weights else None


def reads(expr: Any) -> Sequence[Any]:
    """Variables that an expression reads, repetitions included."""
    if isinstance(expr, relax.Var):
        return [] if is_dimension(expr) else [expr]
    if isinstance(expr, tvm.ir.Call):
        return [v for a in expr.args for v in reads(a)]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in reads(f)]
    if isinstance(expr, relax.TupleGetItem):
        return reads(expr.tuple_value)
    return []


def rows_and_width(var: Any, width: int | None = None) -> tuple[Any, int]:
    """A tensor as [rows, width]: the last axis, or the last axes that make ``width``.

    Raises:
        TargetError: The trailing axes do not multiply to ``width``.
    """
    shape = shape_of(var, "spike")
    wanted, got = int(shape[-1]) if width is None else width, 1
    while shape and got < wanted:
        got *= int(shape.pop())
    if got != wanted:
        raise TargetError(f"{var.name}: cannot be seen as rows of {wanted} channels")
    rows: Any = 1
    for dimension in shape:
        rows = dimension if isinstance(rows, int) and rows == 1 else rows * dimension
    return rows, wanted
