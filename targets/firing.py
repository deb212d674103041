"""What fired while a program ran: spikes, silent neurons and synops, by operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.ir.coding import time_steps

__all__ = ["Firing", "OpFiring"]


@dataclass
class OpFiring:
    """Sums over all tokens of one operation's encoded inputs.

    Attributes:
        neurons: Counts that were encoded.
        silent: Those that are 0.
        rate_spikes: Sum of |s|: the spikes of the codings ``ternary`` and ``binary``.
        bit_spikes: Sum of the ones of |s| in binary: the spikes of ``bitwise``.
        rate_synops: Spikes times the synapses that each met, by rate.
        bit_synops: The same, bitwise.
        finite: Whether all thresholds were finite.
    """

    neurons: int = 0
    silent: int = 0
    rate_spikes: int = 0
    bit_spikes: int = 0
    rate_synops: int = 0
    bit_synops: int = 0
    finite: bool = True

    def add(self, counts: NDArray, theta: NDArray, fan_out: int | NDArray) -> None:
        """Adds counts [tokens, ...] and their thresholds; ``fan_out`` is one number, or one a token."""
        magnitude = np.abs(counts.reshape(len(counts), -1).astype(np.int32))
        rate = magnitude.sum(1, dtype=np.int64)
        bits = np.bitwise_count(magnitude).sum(1, dtype=np.int64)
        self.neurons += magnitude.size
        self.silent += int(magnitude.size - np.count_nonzero(magnitude))
        self.rate_spikes += int(rate.sum())
        self.bit_spikes += int(bits.sum())
        self.rate_synops += int((rate * fan_out).sum())
        self.bit_synops += int((bits * fan_out).sum())
        self.finite &= bool(np.isfinite(theta).all())

    def add_visible(self, counts: NDArray, seen: NDArray, fan_out: int) -> None:
        """Adds probability counts [n, S]; those that are not ``seen`` [n, S] are 0 and do not exist."""
        hidden = int(seen.size - np.count_nonzero(seen))
        self.add(counts, np.ones(1, np.float32), fan_out)
        self.neurons -= hidden
        self.silent -= hidden

    def merge(self, other: OpFiring) -> None:
        """Adds the sums of another run."""
        for name in ("neurons", "silent", "rate_spikes", "bit_spikes", "rate_synops", "bit_synops"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.finite &= other.finite


@dataclass
class Firing:
    """The firing of a run.

    Attributes:
        tokens: Tokens that ran.
        linears: Every linear in the order of the program.
        attentions: The queries of every attention in the order of the program.
        probabilities: The attention probabilities of each of them, where they were counted.
    """

    tokens: int = 0
    linears: list[OpFiring] = field(default_factory=list)
    attentions: list[OpFiring] = field(default_factory=list)
    probabilities: list[OpFiring] = field(default_factory=list)

    def merge(self, other: Firing) -> None:
        """Adds another run of the same program."""
        self.tokens += other.tokens
        for name in ("linears", "attentions", "probabilities"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine += [OpFiring() for _ in range(len(theirs) - len(mine))]
            for into, fired in zip(mine, theirs, strict=True):
                into.merge(fired)

    def pairs(self, ops: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], OpFiring]]:
        """Entries of the operation table that fired, each with its firing."""
        rest = {"linear": iter(self.linears), "attention": iter(self.attentions)}
        pairs = [(op, next(rest[op["kind"]], None)) for op in ops if op["kind"] in rest]
        return [(op, fired) for op, fired in pairs if fired is not None]

    def summary(self, ops: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Totals and one row an operation, by the coding that each operation has.

        ``firing_rate`` is spikes per neuron and time step. Synops are those of the linears and of queries
        meeting keys. Probabilities stand apart, as there is one for each key: ``probabilities``, one row an
        attention, where they were counted.
        """
        rows = [_row(op, fired, self.tokens) for op, fired in self.pairs(ops)]
        neurons = sum(r["neurons"] for r in rows)
        spikes = sum(r["spikes"] for r in rows)
        slots = sum(r["neurons"] * r["time_steps"] for r in rows)
        return {
            "tokens": self.tokens,
            "spikes_per_neuron": spikes / max(1, neurons),
            "zero_fraction": sum(r["silent"] for r in rows) / max(1, neurons),
            "firing_rate": spikes / max(1, slots),
            "synops_per_token": sum(r["synops_per_token"] for r in rows),
            "ops": rows,
            "probabilities": self.probability_rows(ops),
        }

    def probability_rows(self, ops: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One row an attention; ``keys`` is how many a query met on average."""
        attentions = [op for op in ops if op["kind"] == "attention"]
        rows = []
        for op, fired in zip(attentions, self.probabilities, strict=False):
            levels = op["probability_levels"]
            entry = {**op, "time_steps": time_steps(op["coding"], levels)}
            row = _row(entry, fired, self.tokens)
            rows.append({**row, "keys": fired.neurons / max(1, self.tokens * op["heads"])})
        return rows


def _row(op: Mapping[str, Any], fired: OpFiring, tokens: int) -> dict[str, Any]:
    own = "bit" if op["coding"] == "bitwise" else "rate"
    neurons, seen = max(1, fired.neurons), max(1, tokens)
    both = {f"{kind}_spikes": getattr(fired, f"{kind}_spikes") for kind in ("rate", "bit")}
    both |= {f"{kind}_synops_per_token": getattr(fired, f"{kind}_synops") / seen for kind in ("rate", "bit")}
    return {
        "name": op["name"],
        "neurons": fired.neurons,
        "silent": fired.silent,
        "spikes": both[f"{own}_spikes"],
        "spikes_per_neuron": both[f"{own}_spikes"] / neurons,
        "zero_fraction": fired.silent / neurons,
        "time_steps": op["time_steps"],
        "synops_per_token": both[f"{own}_synops_per_token"],
        **both,
    }
