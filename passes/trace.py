"""Following activations back to the rows of the linear that makes them."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from sdc.ir.ops import attributes, is_op, shape_of
from sdc.passes.graph import Graph, Linear, operands

__all__ = ["Rows", "ValuePath", "appended", "made_by", "value_path"]


@dataclass(frozen=True)
class Rows:
    """Output channels ``start`` to ``stop`` of a linear."""

    linear: Linear
    start: int
    stop: int


@dataclass(frozen=True)
class ValuePath:
    """An attention whose output goes into one linear only, and whose values come from rows of another.

    Attributes:
        attention: The attention's variable.
        rows: The rows that make V: kv_heads * head_dim of them, head by head.
        heads: Query heads.
        kv_heads: Key / value heads.
        head_dim: Channels of one head of V.
    """

    attention: relax.Var
    rows: Rows
    heads: int
    kv_heads: int
    head_dim: int


def made_by(graph: Graph, expr: relax.Expr) -> Rows | None:
    """The rows that make an activation [..., N], if scaling or mixing those rows touches nothing else.

    Follows ``R.split`` along the last axis. None where any value on the way has another reader.
    """
    if not isinstance(expr, relax.Var) or graph.sole_user(expr) is None:
        return None
    linear = graph.as_linear(expr)
    if linear is not None:
        return Rows(linear, 0, shape_of(linear.weight, "linear")[0])
    item = graph.producer_of(expr)
    if not isinstance(item, relax.TupleGetItem):
        return None
    split = graph.producer_of(item.tuple_value)
    if not is_op(split, "split") or attributes(split)["axis"] not in (-1, len(shape_of(expr, "split")) - 1):
        return None
    linear = graph.as_linear(split.args[0])
    same = [v for v in graph.consumers[item.tuple_value] if _index(graph.producer[v]) in (item.index, None)]
    if linear is None or graph.sole_user(linear.var) is None or len(same) > 1:
        return None
    start, stop = _bounds(split, item.index, shape_of(linear.weight, "linear")[0])
    return Rows(linear, start, stop)


def appended(graph: Graph, cache: relax.Expr) -> relax.Call | None:
    """The ``sdc.kv_append`` behind an attention's K or V, if only that attention reads the cache."""
    call = graph.producer_of(cache)
    if not is_op(call, "sdc.kv_append") or len(graph.users(cache)) != 1:
        return None
    readers = [v for v in operands(graph.users(cache)[0]) if v.same_as(cache)]
    return call if len(readers) == 1 else None


def value_path(graph: Graph, linear: Linear) -> ValuePath | None:
    """The attention in front of an output projection, and the rows its values come from.

    None unless linear.x is reshape(attention(q, k, v)) and v is (kv_append of) reshape(rows), with no other
    reader on the way.
    """
    reshape = graph.producer_of(linear.x)
    if not is_op(reshape, "reshape") or graph.sole_user(linear.x) is None:
        return None
    out = reshape.args[0]
    attention = graph.producer_of(out)
    if not is_op(attention, "sdc.attention") or graph.sole_user(out) is None:
        return None
    heads, head_dim = shape_of(out, "attention")[2:]
    append = appended(graph, attention.args[2])
    values = attention.args[2] if append is None else append.args[1]
    rows = _rows_of_heads(graph, values, head_dim)
    if rows is None or heads * head_dim != shape_of(linear.x, "reshape")[-1]:
        return None
    return ValuePath(out, rows, heads, (rows.stop - rows.start) // head_dim, head_dim)


def _rows_of_heads(graph: Graph, values: relax.Expr, head_dim: int) -> Rows | None:
    """The rows behind values [batch, n, kv_heads, head_dim] or [batch, kv_heads, S, head_dim]."""
    call = graph.producer_of(values)
    if is_op(call, "permute_dims") and graph.sole_user(values) is not None:
        axes = attributes(call)["axes"]
        if axes is None or list(axes) != [0, 2, 1, 3]:
            return None
        values, call = call.args[0], graph.producer_of(call.args[0])
    if not is_op(call, "reshape") or graph.sole_user(values) is None:
        return None
    rows = made_by(graph, call.args[0])
    per_token = shape_of(values, "reshape")[2]
    if rows is None or per_token * head_dim != rows.stop - rows.start:
        return None
    return rows


def _index(expr: relax.Expr) -> int | None:
    return int(expr.index) if isinstance(expr, relax.TupleGetItem) else None


def _bounds(split: relax.Call, index: int, width: int) -> tuple[int, int]:
    at = attributes(split)["indices_or_sections"]
    cuts = [width * i // at for i in range(1, at)] if isinstance(at, int) else [int(i) for i in at]
    edges = [0, *cuts, width]
    return edges[index], edges[index + 1]
