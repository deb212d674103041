"""Rows of a table by token id: the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.targets.cpu.emit import declare, fit, let, load, loop, prim_func, store, symbol
from sdc.targets.cpu.isa import Isa

__all__ = ["LookupSpec", "lookup"]


@dataclass(frozen=True)
class LookupSpec:
    """A table [rows, width] float32; ``tokens`` is 0 where symbolic."""

    rows: int
    width: int
    tokens: int = 0

    def key(self) -> str:
        """A name for the kernel."""
        return f"lookup_{self.tokens or 'n'}_{self.rows}x{self.width}"


def lookup(spec: LookupSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(table [rows, width], indices int64 [n], out [n, width])``; indices stay in the table."""
    return prim_func(spec.key(), lambda: _emit(spec, isa))


def _emit(spec: LookupSpec, isa: Isa) -> None:
    n: Any = spec.tokens or symbol("n")
    table = declare("table", (spec.rows, spec.width), "float32")
    indices = declare("indices", (n,), "int64")
    out = declare("out", (n, spec.width), "float32")
    lanes = fit(spec.width, isa.lanes)
    with loop(n) as m:
        row = let(tirx.max(tirx.min(load(indices, (m,)), tirx.const(spec.rows - 1, "int64")), 0))
        with loop(spec.width // lanes) as i:
            store(out, (m, i * lanes), load(table, (row, i * lanes), lanes), lanes)
