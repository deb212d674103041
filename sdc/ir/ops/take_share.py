"""``sdc.take_share``: rows of a table of which every worker of a sharded program holds some."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir.ops._register import call, register, shape_of, tensor

__all__ = ["reference", "take_share"]

DOC = """Rows of a table by index, where a worker holds a share of the rows.

table [R, C] float32, index [...] int64, worker [1] int32 -> [..., C] float32. Worker w holds the rows
w R .. w R + R - 1 of the whole table; rows that others hold are 0. So the sum over workers is what the
whole table has (Megatron, arXiv 1909.08053, section 3)."""


def take_share(table: relax.Expr, index: relax.Expr, worker: relax.Expr) -> relax.Call:
    """Builds ``sdc.take_share``: table [R, C] float32, index int64, worker [1] int32 -> [..., C] float32."""
    return call("take_share", [table, index, worker], {})


def reference(table: NDArray, index: NDArray, worker: NDArray) -> NDArray:
    """Rows that are held; zeros for the others."""
    own = index - len(table) * int(worker[0])
    held = (own >= 0) & (own < len(table))
    rows = table[np.where(held, own, 0)]
    return np.where(held[..., None], rows, np.float32(0))


def _infer(node: relax.Call) -> Any:
    table, index, worker = (shape_of(a, "take_share") for a in node.args)
    if len(table) != 2 or worker != [1]:
        raise ValueError(f"sdc.take_share: wants a table [R, C] and a worker [1], got {table} and {worker}")
    return tensor([*index, table[1]], "float32")


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    def compute(table: te.Tensor, index: te.Tensor, worker: te.Tensor) -> te.Tensor:
        count = table.shape[0].astype("int64")

        def element(*at: Any) -> Any:
            *where, channel = at
            own = index(*where) - count * worker(0).astype("int64")
            held = tirx.all(own >= 0, own < count)
            return tirx.if_then_else(held, table(own, channel), tirx.const(0, "float32"))

        return te.compute((*index.shape, table.shape[1]), element, name="take_share")

    return builder.call_te(compute, *node.args, primfunc_name_hint="take_share")


register("take_share", _infer, reference, _legalize, DOC)
