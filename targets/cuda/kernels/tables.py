"""Rows of floats and tables: embedding, sums of two, the last token's counts, shares of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import blocks, let, threads
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, store, symbol, then

__all__ = ["AddRows", "GatherRows", "LastRow", "SpreadShare"]

_THREADS = 128


@dataclass(frozen=True)
class GatherRows:
    """Rows by index: table [rows, width]; ``tokens`` indices, 0 where symbolic.

    Attributes:
        scaled: The table is int8, with a scale for each row.
        shared: The table is one worker's share of the rows; those of other workers are 0.
    """

    rows: int
    width: int
    tokens: int = 0
    scaled: bool = False
    shared: bool = False

    def key(self) -> str:
        """A name for the kernel."""
        kind = "_bytes" * self.scaled + "_share" * self.shared
        return f"gather_rows_{self.tokens or 'n'}x{self.width}{kind}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(table[, scales [rows, 1]], index [n] int64[, worker [1] int32], out [n, width])``.

        Indices are clipped, those of other workers' rows aside.
        """
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n: Any = self.tokens or symbol("n")
        table = declare("table", (self.rows, self.width), "int8" if self.scaled else "float32")
        scales = declare("scales", (self.rows, 1), "float32") if self.scaled else None
        index = declare("index", (n,), "int64")
        worker = declare("worker", (1,), "int32") if self.shared else None
        out = declare("out", (n, self.width), "float32")
        with blocks("x", n) as m, blocks("y", -(-self.width // _THREADS)) as part, threads(_THREADS) as t:
            channel = let(part * _THREADS + t)
            with if_(channel < self.width), then():
                own = index[m]
                if worker is not None:
                    own = let(own - load(worker, (0,)).astype("int64") * self.rows)
                row = let(tirx.min(tirx.max(own, 0), self.rows - 1))
                value = load(table, (row, channel))
                if scales is not None:
                    value = value.astype("float32") * load(scales, (row, 0))
                if worker is not None:
                    value = tirx.Select(own.equal(row), value, const(0.0, "float32"))
                store(out, (m, channel), value)


@dataclass(frozen=True)
class AddRows:
    """a + b; ``vector`` where b is one row [width] for all rows of a. ``tokens`` rows, 0 where symbolic."""

    width: int
    vector: bool
    tokens: int = 0

    def key(self) -> str:
        """A name for the kernel."""
        return f"add_{'vector' if self.vector else 'rows'}_{self.tokens or 'n'}x{self.width}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(a [n, width], b [n, width] or [width], out [n, width])``, float32."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n: Any = self.tokens or symbol("n")
        a = declare("a", (n, self.width), "float32")
        b = declare("b", (self.width,) if self.vector else (n, self.width), "float32")
        out = declare("out", (n, self.width), "float32")
        with blocks("x", n) as m, blocks("y", -(-self.width // _THREADS)) as part, threads(_THREADS) as t:
            channel = let(part * _THREADS + t)
            with if_(channel < self.width), then():
                other = load(b, (channel,) if self.vector else (m, channel))
                store(out, (m, channel), load(a, (m, channel)) + other)


@dataclass(frozen=True)
class LastRow:
    """The last token's counts and thresholds: row widths and the counts' dtype."""

    dtype: str
    width: int
    groups: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"last_row_{self.width}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(counts [n, K], theta [n, G], counts [1, K], theta [1, G])``."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n = symbol("n")
        counts = declare("counts", (n, self.width), self.dtype)
        theta = declare("theta", (n, self.groups), "float32")
        last_counts = declare("last_counts", (1, self.width), self.dtype)
        last_theta = declare("last_theta", (1, self.groups), "float32")
        with blocks("x", -(-self.width // _THREADS)) as block, threads(_THREADS) as t:
            at = let(block * _THREADS + t)
            with if_(at < self.width), then():
                store(last_counts, (0, at), load(counts, (n - 1, at)))
            with if_(at < self.groups), then():
                store(last_theta, (0, at), load(theta, (n - 1, at)))


@dataclass(frozen=True)
class SpreadShare:
    """A worker's share of rows of logits where it stands among those of all; the others' places hold 0."""

    rows: int
    workers: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"spread_share_{self.workers}x{self.rows}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(logits [n, rows] float32, worker [1] int32, out [n, workers * rows] float32)``."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n, width = symbol("n"), self.workers * self.rows
        logits = declare("logits", (n, self.rows), "float32")
        worker = declare("worker", (1,), "int32")
        out = declare("out", (n, width), "float32")
        with blocks("x", n) as m, blocks("y", -(-width // _THREADS)) as part, threads(_THREADS) as t:
            at = let(part * _THREADS + t)
            with if_(at < width), then():
                own = let(at - load(worker, (0,)) * self.rows)
                store(out, (m, at), const(0.0, "float32"))
                with if_(tirx.all(own >= 0, own < self.rows)), then():
                    store(out, (m, at), load(logits, (m, own)))
