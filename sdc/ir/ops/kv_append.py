"""``sdc.kv_append``: new rows of a key or value cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir.ops._register import call, dtype_of, register, shape_of, tensor

__all__ = ["kv_append", "reference"]

DOC = """Writes the rows of n new tokens into a cache.

cache [batch, heads, S, d], x [batch, n, heads, d] of the same dtype, position int64 (rank 0) -> the cache
with rows position .. position + n - 1 replaced. Value semantics; targets do it in place, since the old
cache is dead afterwards."""


def kv_append(cache: relax.Expr, x: relax.Expr, position: relax.Expr) -> relax.Call:
    """Builds ``sdc.kv_append``: cache [batch, heads, S, d], x [batch, n, heads, d] -> cache."""
    return call("kv_append", [cache, x, position], {})


def reference(cache: NDArray, x: NDArray, position: NDArray) -> NDArray:
    """A copy of the cache with the new rows.

    Raises:
        ValueError: The rows do not fit into the cache.
    """
    start, count = int(position), x.shape[1]
    if start < 0 or start + count > cache.shape[2]:
        raise ValueError(f"sdc.kv_append: rows {start}..{start + count} do not fit into {cache.shape[2]}")
    out = np.array(cache, copy=True)
    out[:, :, start : start + count] = x.transpose(0, 2, 1, 3)
    return out


def _infer(node: relax.Call) -> Any:
    cache, x = shape_of(node.args[0], "kv_append"), shape_of(node.args[1], "kv_append")
    if len(cache) != 4 or len(x) != 4:
        raise ValueError(f"sdc.kv_append: cache and x must have rank 4, got {len(cache)} and {len(x)}")
    if dtype_of(node.args[0]) != dtype_of(node.args[1]):
        raise ValueError(
            f"sdc.kv_append: cache holds {dtype_of(node.args[0])}, new rows are {dtype_of(node.args[1])}"
        )
    return tensor(cache, dtype_of(node.args[0]))


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    def compute(cache: te.Tensor, x: te.Tensor, position: te.Tensor) -> te.Tensor:
        def element(b: Any, h: Any, s: Any, d: Any) -> Any:
            row = s - position()
            fresh = tirx.all(row >= 0, row < x.shape[1])
            return tirx.if_then_else(fresh, x[b, row, h, d], cache[b, h, s, d])

        return te.compute(cache.shape, element, name="kv_append")

    return builder.call_te(compute, *node.args, primfunc_name_hint="kv_append")


register("kv_append", _infer, reference, _legalize, DOC)
