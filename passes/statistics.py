"""What calibration sees: the largest input of every channel, and sample rows, for each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from sdc.errors import NumericsError
from sdc.ir.evaluate import Lockstep
from sdc.ir.model import Model
from sdc.ir.ops import OPS, attributes, is_op
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph, op_name

__all__ = ["InputStatistics", "appended_rows", "calibration_inputs", "collect_statistics"]

_LOGIT_BYTES = 256 << 20
"""Windows run together as long as their logits stay below this."""


Complete = Callable[[str, NDArray, NDArray], None]


@dataclass(frozen=True)
class InputStatistics:
    """Inputs of one operation over the calibration windows.

    Attributes:
        absmax: [K] float32, max |x_j| over all tokens.
        weight_absmax: [K] float32, max_n |w_nj| (linears only; empty otherwise).
        rows: [R, K] float32, inputs of R tokens spread evenly over the windows.
        tokens: How many rows were seen.
    """

    absmax: NDArray
    weight_absmax: NDArray
    rows: NDArray
    tokens: int


def collect_statistics(
    model: Model, ctx: PassContext, rows: int = 0, complete: Complete | None = None
) -> dict[str, InputStatistics]:
    """Runs the calibration windows and records inputs by operation name.

    A linear is recorded under its name. An attention is recorded as ``name:q``, ``name:k`` and ``name:v``,
    where a row is one head of one token.

    Args:
        model: A float model.
        ctx: Holds the calibration inputs.
        rows: Sample rows to keep, at most, for each operation.
        complete: Called for each linear, in the order of the program, when all of its inputs have been seen,
            with its name, its sample rows [R, K] and its weight [N, K]: to use a weight while it is at hand.

    Raises:
        NumericsError: An operation's input holds NaN or infinity.
    """
    graph = Graph(model)
    observed = [
        b.var for b in graph.bindings if is_op(b.value, "sdc.linear") or is_op(b.value, "sdc.attention")
    ]
    if not observed:
        return {}
    collector = _Collector(graph, observed[-1], rows, max(1, len(ctx.calibration)))
    done, total = 0, len(ctx.calibration)
    for count, inputs in calibration_inputs(model, ctx):
        done += count
        collector.windows = count
        collector.complete = complete if done == total else None
        Lockstep(model, [inputs]).run(collector, observed[-1])
        ctx.progress("calibrating", done, total)
    return collector.result()


def calibration_inputs(
    model: Model, ctx: PassContext, *, all_together: bool = False
) -> Iterator[tuple[int, tuple[NDArray, ...]]]:
    """Inputs of the entry function for each run, and how many windows that run holds.

    Windows of a decoder are token ids; those of one length run together, as many as memory for their logits
    allows, or all of them. Caches start empty. Windows of any other model are the function's inputs
    themselves.
    """
    if model.info.kind != "decoder":
        for window in ctx.calibration:
            yield 1, window if isinstance(window, tuple) else (window,)
        return
    by_length: dict[int, list[NDArray]] = {}
    for tokens in ctx.calibration:
        flat = np.asarray(tokens, np.int64).reshape(-1)
        by_length.setdefault(len(flat), []).append(flat)
    for length, windows in by_length.items():
        step = max(1, _LOGIT_BYTES // (4 * max(1, length * model.info.vocab)))
        step = len(windows) if all_together else step
        for start in range(0, len(windows), step):
            batch = np.stack(windows[start : start + step])
            yield len(batch), (batch, np.asarray(0, np.int64), *_empty_caches(model, len(batch)))


def appended_rows(call: relax.Call, runs: Lockstep) -> list[NDArray]:
    """What a ``sdc.kv_append`` to an empty cache holds in each run: the new rows [batch, heads, n, d]."""
    return [x.transpose(0, 2, 1, 3) for x in runs.values(call.args[1])]


def _empty_caches(model: Model, batch: int) -> tuple[NDArray, ...]:
    function = model.module[model.entry]
    caches = list(function.params)[2 : int(function.attrs["num_input"])]
    return tuple(
        np.broadcast_to(
            np.zeros((), str(cache.ty.dtype)), (batch, *[int(d) for d in cache.ty.shape.values[1:]])
        )
        for cache in caches
    )


@dataclass
class _Record:
    absmax: NDArray
    weight_absmax: NDArray
    tokens: int = 0
    rows: list[NDArray] = field(default_factory=list)


class _Collector:
    """Looks on as a window runs: keeps maxima and samples, never whole activations.

    The last operation is not computed: of a decoder that is the head, a fifth of a small model's work.
    """

    def __init__(self, graph: Graph, last: relax.Var, rows: int, total: int) -> None:
        self.graph, self.last = graph, last
        self.rows, self.total, self.windows = rows, total, 1
        self.complete: Complete | None = None
        self.records: dict[str, _Record] = {}

    def __call__(self, var: relax.Var, call: relax.Call, runs: Lockstep) -> Sequence[Any] | None:
        if is_op(call, "sdc.kv_append"):
            return appended_rows(call, runs)
        if is_op(call, "sdc.linear"):  # computed here, since a weight takes longer to load than to use
            x, weight, *bias = (runs.values(a)[0] for a in call.args)
            name = op_name(call)
            self.record(name, x, weight)
            if self.complete is not None:
                self.complete(name, self.sample(self.records[name]), weight)
            return [None if var.same_as(self.last) else OPS["linear"].reference(x, weight, *bias)]
        if is_op(call, "sdc.attention"):
            q, k, v, position = (runs.values(a)[0] for a in call.args[:4])
            name, causal = op_name(call), attributes(call)["causal"]
            seen = int(position) + q.shape[1] if causal else k.shape[2]
            self.record(f"{name}:q", q)
            self.record(f"{name}:k", k[:, :, :seen])
            self.record(f"{name}:v", v[:, :, :seen])
        return [None] if var.same_as(self.last) else None

    def record(self, name: str, x: NDArray, weight: NDArray | None = None) -> None:
        flat = x.reshape(-1, x.shape[-1])
        absmax = _absmax(flat)
        if not np.isfinite(absmax).all():
            raise NumericsError(name, "its input is NaN or infinite on the calibration text")
        if name not in self.records:
            columns = np.empty(0, np.float32) if weight is None else _absmax(weight)
            self.records[name] = _Record(np.zeros_like(absmax), columns)
        record = self.records[name]
        np.maximum(record.absmax, absmax, out=record.absmax)
        record.tokens += len(flat)
        wanted = min(-(-self.rows * self.windows // self.total), len(flat))
        if wanted:
            record.rows.append(flat[np.linspace(0, len(flat) - 1, wanted).astype(int)].copy())

    def result(self) -> dict[str, InputStatistics]:
        return {
            name: InputStatistics(r.absmax, r.weight_absmax, self.sample(r), r.tokens)
            for name, r in self.records.items()
        }

    def sample(self, record: _Record) -> NDArray:
        if not record.rows:
            return np.empty((0, len(record.absmax)), np.float32)
        rows = np.concatenate(record.rows)
        return rows[np.linspace(0, len(rows) - 1, min(self.rows, len(rows))).astype(int)]


def _absmax(rows: NDArray) -> NDArray:
    """max |x| of every column, without an array of magnitudes; NaN where a column holds one."""
    return np.maximum(rows.max(0, initial=0.0), -rows.min(0, initial=0.0))
