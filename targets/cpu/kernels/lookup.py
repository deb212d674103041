"""Rows of a table by token id: the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.targets.cpu.emit import broadcast, declare, fit, lane_type, let, load, loop, prim_func, store, symbol
from sdc.targets.cpu.isa import Isa

__all__ = ["LookupSpec", "lookup"]


@dataclass(frozen=True)
class LookupSpec:
    """A table [rows, width] float32, or int8 with a scale a row; ``tokens`` is 0 where symbolic."""

    rows: int
    width: int
    scaled: bool = False
    tokens: int = 0

    def key(self) -> str:
        """A name for the kernel."""
        return f"lookup_{self.tokens or 'n'}_{self.rows}x{self.width}" + "_scaled" * self.scaled


def lookup(spec: LookupSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(table [rows, width][, scale [rows, 1]], indices int64 [n], out [n, width])``.

    An index out of range stays inside the table.
    """
    return prim_func(spec.key(), lambda: _emit(spec, isa))


def _emit(spec: LookupSpec, isa: Isa) -> None:
    n: Any = spec.tokens or symbol("n")
    table = declare("table", (spec.rows, spec.width), "int8" if spec.scaled else "float32")
    scales = declare("scales", (spec.rows, 1), "float32") if spec.scaled else None
    indices = declare("indices", (n,), "int64")
    out = declare("out", (n, spec.width), "float32")
    lanes = fit(spec.width, isa.lanes)
    with loop(n) as m:
        row = let(tirx.max(tirx.min(load(indices, (m,)), tirx.const(spec.rows - 1, "int64")), 0))
        with loop(spec.width // lanes) as i:
            value = load(table, (row, i * lanes), lanes)
            if scales is not None:
                scale = broadcast(load(scales, (row, 0)), lanes)
                value = value.astype(lane_type("float32", lanes)) * scale
            store(out, (m, i * lanes), value, lanes)
