"""Lazy weights as passes change them: edits by operation, and the sources and transforms only passes need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from sdc.ir.params import Param, Transform, hadamard_transform
from sdc.passes.graph import Graph, op_name
from sdc.passes.rewriter import Rewriter

__all__ = ["Filled", "HadamardRows", "WeightEdits", "filled", "is_filled"]


@dataclass(frozen=True)
class Filled:
    """A float32 tensor that holds one value everywhere."""

    shape: tuple[int, ...]
    fill: float

    def load(self) -> NDArray:
        """The tensor."""
        return np.full(self.shape, self.fill, np.float32)


def filled(kind: str, size: int, fill: float) -> Param:
    """A vector [size] float32 of equal values; all of one kind and size are the same parameter."""
    return Param(f"{kind}.{size}", (size,), "float32", Filled((size,), fill))


def is_filled(param: Param, fill: float) -> bool:
    """Whether every element is known to be ``fill`` without loading it."""
    return isinstance(param.source, Filled) and param.source.fill == fill and not param.transforms


@dataclass(frozen=True)
class HadamardRows:
    """Makes a linear's outputs ``start`` to ``stop`` come out as ``sdc.hadamard(., signs)`` would leave them.

    Rows of a weight [N, K], or elements of a bias [N]: y = H (signs * rows) in every block of ``block`` rows,
    entries +-1, not normalised.
    """

    signs: Param
    block: int
    start: int
    stop: int

    def __call__(self, array: NDArray) -> NDArray:
        out = array.astype(np.float32)
        rows = np.moveaxis(out[self.start : self.stop], 0, -1)
        out[self.start : self.stop] = np.moveaxis(
            hadamard_transform(rows * self.signs.value(), self.block), -1, 0
        )
        return out

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"Hadamard of {self.block} rows within {self.start}:{self.stop}"


class WeightEdits:
    """New parameters for arguments of operations; the function is rewritten once, at the end.

    An operation whose weight others share gets a weight of its own, named after it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._params: dict[tuple[relax.Var, int], Param] = {}
        self._appended: dict[relax.Var, Param] = {}
        self._touched: set[relax.Var] = set()

    def find(self, var: relax.Var, index: int) -> Param | None:
        """Argument ``index`` of the call bound to ``var`` as edited so far; None where it is no weight."""
        call = self.graph.producer[var]
        if index >= len(call.args):
            return self._appended.get(var)
        return self._params.get((var, index)) or self.graph.weight(call.args[index])

    def append_step(self, var: relax.Var, index: int, step: Transform, name: str | None = None) -> None:
        """One more transform for an argument that is a weight; one that is missing stays so.

        The derived parameter is called ``name``, or :meth:`own_name`.
        """
        param = self.find(var, index)
        if param is not None:
            self.set(var, index, param.then(step, name=name or self.own_name(var, index)))

    def set(self, var: relax.Var, index: int, param: Param) -> None:
        """Replaces an argument, or appends one where ``index`` is the number of arguments."""
        self._touched.add(var)
        if index == len(self.graph.producer[var].args):
            self._appended[var] = param
        else:
            self._params[var, index] = param

    def own_name(self, var: relax.Var, index: int) -> str:
        """The name for a parameter derived from argument ``index``: its own, or one of the operation's."""
        call = self.graph.producer[var]
        role = {1: "weight", 2: "bias"}.get(index, str(index))
        if index >= len(call.args):
            return f"{op_name(call)}.{role}"
        weight = call.args[index]
        shared = self.graph.sole_user(weight) is None
        return f"{op_name(call)}.{role}" if shared and op_name(call) else str(weight.name)

    def apply(self, rewriter: Rewriter, var: relax.Var, args: list[relax.Expr]) -> list[relax.Expr]:
        """New arguments for the call bound to ``var``, given the copied ones."""
        out = [
            rewriter.weight(self._params[var, i]) if (var, i) in self._params else arg
            for i, arg in enumerate(args)
        ]
        return [*out, rewriter.weight(self._appended[var])] if var in self._appended else out

    def visit(self, rewriter: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """A visitor that does nothing but the edits."""
        return self.copy(rewriter, var, value) if var in self._touched else None

    def copy(self, rewriter: Rewriter, var: relax.Var, call: relax.Call) -> relax.Call:
        """The call on new variables, with the edits."""
        args = self.apply(rewriter, var, [self._new(rewriter, var, i, a) for i, a in enumerate(call.args)])
        return relax.Call(call.op, args, call.attrs, call.ty_args)

    def _new(self, rewriter: Rewriter, var: relax.Var, index: int, old: relax.Expr) -> relax.Expr:
        """Does not ask for the old weight where a new one takes its place: nothing else may read it."""
        return old if (var, index) in self._params else rewriter.new(old)
