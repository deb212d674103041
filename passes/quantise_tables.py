"""Quantise tables: rows of large embedding tables take values that int8 and a scale can hold."""

from __future__ import annotations

from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_op
from sdc.ir.tables import ByteRows, byte_rows
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph
from sdc.passes.rewriter import rewrite
from sdc.passes.weights import WeightEdits

__all__ = ["QuantiseTables"]


class QuantiseTables:
    """Appends :class:`sdc.ir.tables.ByteRows` to each float table that is only looked up, row by row.

    A model of a hundred million parameters spends a third of its bytes on such a table. One that something
    else reads too stays (a tied head whose weight no pass before has taken apart). The module does not
    change: targets see the grid and store bytes.

    Args:
        size: Tables of fewer elements stay; they weigh nothing.
    """

    name = "quantise-tables"

    def __init__(self, size: int = 1 << 18) -> None:
        self.size = size

    def run(self, model: Model, ctx: PassContext) -> Model:
        graph = Graph(model)
        edits = WeightEdits(graph)
        for var, call in _lookups(graph, self.size):
            if byte_rows(graph.param(call.args[0])) is None:
                edits.append_step(var, 0, ByteRows())
        return rewrite(model, edits.visit, graph=graph)

    def check(self, model: Model, ctx: PassContext) -> None:
        graph = Graph(model)
        for _, call in _lookups(graph, self.size):
            if byte_rows(graph.param(call.args[0])) is None:
                raise PostconditionError(self.name, f"{call.args[0].name} could be quantised and was not")


def _lookups(graph: Graph, size: int) -> list[tuple[relax.Var, relax.Call]]:
    """Calls that take rows of a large table which nothing but such calls reads."""
    return [(v, c) for v, c in graph.calls("take") if _is_row_lookup(graph, c, size)]


def _is_row_lookup(graph: Graph, call: relax.Call, size: int) -> bool:
    param = graph.weight(call.args[0])
    if param is None or param.dtype != "float32" or len(param.shape) != 2 or attributes(call)["axis"] != 0:
        return False
    large = param.shape[0] * param.shape[1] >= size
    return large and all(is_op(user, "take") for user in graph.users(call.args[0]))
