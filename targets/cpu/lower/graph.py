"""A function's bindings with producers and readers, and the tensors that are only another shape of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from sdc.errors import TargetError
from sdc.ir.ops import is_op, shape_of

__all__ = ["Graph", "reads", "rows_and_width"]

_VIEWS = ("reshape", "squeeze", "expand_dims", "flatten")


class Graph:
    """Lookups on a straight-line function.

    Raises:
        TargetError: The function has control flow.
    """

    def __init__(self, function: relax.Function) -> None:
        self.function = function
        self.num_input = int(function.attrs["num_input"])
        params = list(function.params)
        self.inputs, self.weights = params[: self.num_input], params[self.num_input :]
        self.is_weight = set(self.weights)
        self.bindings = [b for block in function.body.blocks for b in block.bindings]
        self.producer: dict[Any, Any] = {}
        self.readers: dict[Any, list[Any]] = {}
        for binding in self.bindings:
            if isinstance(binding.value, relax.If | relax.Function):
                raise TargetError(f"{binding.var.name}: control flow cannot be compiled; unroll it")
            self.producer[binding.var] = binding.value
            for var in reads(binding.value):
                self.readers.setdefault(var, []).append(binding.var)
        self.outputs = self._outputs(function.body.body)
        self.returned = set(self.outputs)

    def _outputs(self, result: Any) -> list[Any]:
        """The variables that the function returns; a tuple is taken apart."""
        self.result = result
        value = self.producer.get(result, result) if isinstance(result, relax.Var) else result
        if isinstance(value, relax.Var):
            return self._outputs(value)
        if isinstance(value, relax.Tuple):
            return [v for field in value.fields for v in self._outputs(field)]
        return [result]

    def call(self, var: Any, *names: str) -> Any:
        """The call that defines ``var``, if it is one of the named operations."""
        value = self.producer.get(var) if isinstance(var, relax.Var) else None
        return value if any(is_op(value, name) for name in names) else None

    def sole_reader(self, var: Any) -> Any:
        """The only variable computed from ``var``; None where there are more, or it is an output."""
        readers = self.readers.get(var, [])
        return readers[0] if len(readers) == 1 and var not in self.returned else None

    def only_for(self, var: Any, reader: Any) -> bool:
        """Whether nothing but ``reader`` needs ``var``."""
        sole = self.sole_reader(var)
        return sole is not None and sole.same_as(reader)

    def item(self, var: Any) -> tuple[Any, int] | None:
        """(tuple variable, index) where ``var`` is an item of a tuple."""
        value = self.producer.get(var) if isinstance(var, relax.Var) else None
        return (value.tuple_value, int(value.index)) if isinstance(value, relax.TupleGetItem) else None

    def items(self, var: Any) -> dict[int, Any]:
        """The variables that hold the items of a tuple variable, by index."""
        found = {}
        for reader in self.readers.get(var, []):
            value = self.producer[reader]
            if isinstance(value, relax.TupleGetItem):
                found[int(value.index)] = reader
        return found

    def is_view(self, var: Any) -> bool:
        """Whether ``var`` is its argument in another shape."""
        return self.call(var, *_VIEWS) is not None

    def past_views(self, var: Any) -> tuple[Any, list[Any]]:
        """The tensor that ``var`` is a chain of sole-reader views of, and the views on the way."""
        passed = []
        while self.is_view(var):
            source = self.producer[var].args[0]
            if not self.only_for(source, var):
                passed.append(var)
                return source, passed
            passed.append(var)
            var = source
        return var, passed


def reads(expr: Any) -> Sequence[Any]:
    """Variables that an expression reads, repetitions included."""
    if isinstance(expr, relax.Var):
        return [expr]
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
