"""Rows of tables that are stored as bytes."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from sdc.ir.ops import attributes, is_op
from sdc.ir.tables import byte_rows
from sdc.targets.fused.graph import Graph
from sdc.targets.fused.packed import PackedWeights

__all__ = ["look_up"]


def look_up(builder: relax.BlockBuilder, weights: PackedWeights, graph: Graph, value: Any, rows: Any) -> Any:
    """``take(table, rows)`` from a table of :class:`sdc.ir.tables.ByteRows`; None for anything else.

    An index out of range stays inside the table.

    Args:
        value: The expression as it was.
        rows: Its indices, in the new function.
    """
    if not is_op(value, "take") or graph.weight(value.args[0]) is None or attributes(value)["axis"] != 0:
        return None
    parts = byte_rows(weights.source[str(graph.weight(value.args[0]).name)])
    if parts is None:
        return None
    integers, scales = (weights.own(part) for part in parts)
    return builder.emit_te(_scaled_rows, integers, scales, rows, primfunc_name_hint="take_byte_rows")


def _scaled_rows(integers: te.Tensor, scales: te.Tensor, rows: te.Tensor) -> te.Tensor:
    last = integers.shape[0] - 1

    def element(*at: Any) -> Any:
        *where, channel = at
        row = tirx.min(tirx.max(rows(*where), tirx.const(0, rows.dtype)), last.astype(rows.dtype))
        return integers(row, channel).astype("float32") * scales(row, 0)

    return te.compute((*rows.shape, integers.shape[1]), element, name="scaled_rows")
