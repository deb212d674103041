"""Queries, keys and values of new tokens: rotary embedding, Hadamard, spike encode per head, in one kernel.

Keys and values go straight into the cache (:mod:`sdc.targets.cpu.kernels.cache`).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sdc.targets.cpu.emit import (
    declare,
    fit,
    lane_type,
    let,
    load,
    local,
    loop,
    prim_func,
    rounded,
    store,
    symbol,
)
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.cache import store_key, store_value
from sdc.targets.cpu.kernels.rows import encode_row, hadamard_row
from sdc.targets.cpu.layout import CacheLayout
from sdc.targets.fused.specs import HeadSpec, HeadsSpec, Rotary

__all__ = ["HeadSpec", "HeadsSpec", "Rotary", "encode_heads"]


def encode_heads(spec: HeadsSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(x..., position[, cos, sin][, signs...], limits, caches..., query, query_theta)``.

    x [n, stride] float32, position int64 (), signs [d] for each part with a block, limits [parts, 3] of the
    encoders. Keys and values are written to their cache and its thresholds at position + i; a query's counts
    are [n, heads, d] int8, its theta [n, heads] float32.
    """
    return prim_func(spec.key(), lambda: _emit(spec, isa))


def _emit(spec: HeadsSpec, isa: Isa) -> None:
    n: Any = spec.tokens or symbol("n")
    tensors: dict[int, Any] = {}
    for part in spec.parts:
        if part.source.tensor not in tensors:
            at = part.source.tensor
            tensors[at] = declare(f"x{at}", (n, part.source.stride), "float32")
    position = declare("position", (), "int64")
    tables: tuple[Any, ...] = ()
    if spec.rotary:
        shape = (spec.rotary.length, spec.rotary.half)
        tables = (declare("cos", shape, "float32"), declare("sin", shape, "float32"))
    signs = [declare(f"signs_{p.role}", (p.width,), "float32") if p.block else None for p in spec.parts]
    numbers = declare("limits", (len(spec.parts), 3), "float32")
    # Caches first: they are arguments that change in place, and the query's are fresh outputs.
    order = sorted(range(len(spec.parts)), key=lambda i: spec.parts[i].role == "query")
    outputs = {i: _outputs(spec.parts[i], spec, n) for i in order}
    with loop(n, parallel=spec.tokens != 1) as m:
        token = let(position[()] + m)
        for i, part in enumerate(spec.parts):
            sign, (counts, theta) = signs[i], outputs[i]
            with loop(part.heads) as h:
                row = local(part.width, "float32")
                _read(row, part, tensors[part.source.tensor], m, h, isa)
                if part.rotary and spec.rotary:
                    _rotate(row, spec.rotary, tables, token, isa)
                if part.block:
                    hadamard_row(row, part.width, sign, part.block, isa.lanes)
                _encode(row, part, (numbers, i), isa, (counts, theta), (m, token, h))


def _outputs(part: HeadSpec, spec: HeadsSpec, n: Any) -> tuple[Any, Any]:
    if part.role == "query":
        counts = declare("query", (n, part.heads, part.width), part.encoder.dtype)
        return counts, declare("query_theta", (n, part.heads), "float32")
    layout = CacheLayout(part.heads, spec.slots, part.width)
    shape, dtype = (layout.key_shape, "uint8") if part.role == "key" else (layout.value_shape, "int8")
    return declare(part.role, shape, dtype), declare(f"{part.role}_theta", layout.theta_shape, "float32")


def _read(row: Any, part: HeadSpec, source: Any, m: Any, h: Any, isa: Isa) -> None:
    lanes = fit(part.width, isa.lanes)
    with loop(part.width // lanes) as i:
        at = part.source.offset + h * part.width + i * lanes
        store(row, (i * lanes,), load(source, (m, at), lanes), lanes)


def _rotate(row: Any, rotary: Rotary, tables: tuple[Any, ...], token: Any, isa: Isa) -> None:
    """Each pair (a, b) at angle t becomes (a cos t - b sin t, b cos t + a sin t)."""
    lanes = 1 if rotary.interleaved else fit(rotary.half, isa.lanes)
    with loop(rotary.half // lanes) as i:
        at = i * lanes
        first, second = (2 * at, 2 * at + 1) if rotary.interleaved else (at, rotary.half + at)
        a, b = let(load(row, (first,), lanes)), let(load(row, (second,), lanes))
        cos, sin = (let(load(t, (token, at), lanes)) for t in tables)
        store(row, (first,), rounded(a * cos) - rounded(b * sin), lanes)
        store(row, (second,), rounded(b * cos) + rounded(a * sin), lanes)


def _encode(
    row: Any, part: HeadSpec, numbers: Any, isa: Isa, out: tuple[Any, Any], at: tuple[Any, Any, Any]
) -> None:
    counts, theta = out
    m, token, h = at
    slot = (m, h) if part.role == "query" else (h, token)

    def write(channel: Any, value: Any, lanes: int) -> None:
        if part.role == "query":
            narrow = value.astype(lane_type(part.encoder.dtype, lanes))
            store(counts, (m, h, channel), narrow, lanes)
        elif part.role == "key":
            store_key(counts, h, token, channel, let(value), lanes)
        else:
            store_value(counts, h, token, channel, let(value), lanes)

    # A key is written four channels (one word) at a time.
    widest = isa.lanes if part.role != "key" or fit(part.width, isa.lanes) >= 4 else 1
    encode_row(
        row, part.width, part.encoder, numbers, widest, write, lambda _, value: store(theta, slot, value)
    )
