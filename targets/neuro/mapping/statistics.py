"""How many spikes to expect: measured where it was measured, else from a Gaussian model.

The block Hadamard makes activations close to Gaussian, so the expected counts of ``group`` normal variables,
encoded with a threshold of max|x| / D, tell how often a neuron fires. :func:`measured_statistics` takes the
firing of a program that ran on a text instead; by role (``mlp.down``) it also serves larger models of the
same kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from sdc.ir.coding import spikes_per_count
from sdc.ir.model import Coding
from sdc.targets.firing import OpFiring

__all__ = ["ROLES", "SpikeStatistics", "gaussian_spikes", "measured_statistics", "softmax_spikes"]

ROLES = ("attn.qkv", "attn.o", "mlp.gate_up", "mlp.down")
"""Linear layers of a Llama-type decoder layer, in the order of execution."""

# Spikes per neuron of SmolLM2-135M-Instruct on held-out English text, smoothing and block Hadamard of 64,
# thresholds per group of 64; levels -> (ternary, bitwise). D = 15 was measured with a rotation of the whole
# stream.
_MEASURED = {7: (2.48, 1.23), 10: (3.44, 1.37), 15: (5.24, 1.67)}
_MEASURED_GROUP = 64


@dataclass(frozen=True)
class SpikeStatistics:
    """Expected spikes per neuron.

    Attributes:
        levels, coding, group: How activations are encoded.
        by_op: Measured spikes per neuron of single operations; they go before all others.
        by_role: The same for roles (:data:`ROLES`, ``head``, ``attn:q``, ``attn:p``) in any layer; they go
            before the general estimate.
        measured_keys: Keys that a query met on average where ``attn:p`` was measured.
        query_levels, probability_levels: Levels of queries and attention probabilities.
    """

    levels: int = 15
    coding: Coding = "bitwise"
    group: int = 64
    by_op: Mapping[str, float] = field(default_factory=dict)
    by_role: Mapping[str, float] = field(default_factory=dict)
    query_levels: int = 15
    probability_levels: int = 255
    measured_keys: int = 0

    def spikes(self, op_name: str) -> float:
        """Spikes of one neuron of an operation for one token."""
        if op_name in self.by_op:
            return self.by_op[op_name]
        role = op_name.split(".", 2)[-1]
        if role in self.by_role:
            return self.by_role[role]
        if self.group == _MEASURED_GROUP and self.levels in _MEASURED:
            ternary, bitwise = _MEASURED[self.levels]
            return bitwise if self.coding == "bitwise" else ternary
        return gaussian_spikes(self.levels, self.coding, self.group)

    def query_spikes(self, head_dim: int) -> float:
        """Spikes of one query channel, one threshold per head."""
        if "attn:q" in self.by_role:
            return self.by_role["attn:q"]
        return gaussian_spikes(self.query_levels, self.coding, head_dim)

    def probability_spikes(self, context: int) -> float:
        """Spikes of one attention probability among ``context`` of them.

        Where measured with another number of keys, the model of a softmax says by what factor they differ.
        """
        modelled = softmax_spikes(self.probability_levels, self.coding, context)
        if "attn:p" not in self.by_role:
            return modelled
        there = softmax_spikes(self.probability_levels, self.coding, self.measured_keys)
        return self.by_role["attn:p"] * modelled / there


def measured_statistics(
    linears: Sequence[OpFiring],
    queries: Sequence[OpFiring],
    levels: int,
    coding: Coding,
    group: int,
    *,
    probabilities: Sequence[OpFiring] = (),
    keys: int = 0,
) -> SpikeStatistics:
    """Statistics of a Llama-type decoder that ran.

    Args:
        linears: Firing of its linear layers in the order of execution: :data:`ROLES` per layer, then the
            head.
        queries: Firing of the queries of its attentions.
        levels, coding, group: How its activations were encoded; ``coding`` may be another one, since counts
            do not depend on it.
        probabilities: Firing of the attention probabilities, if they were counted.
        keys: How many of them a query had on average.

    Raises:
        ValueError: The number of linear layers is not that of such a decoder.
    """
    if len(linears) != len(ROLES) * len(queries) + 1:
        raise ValueError(f"{len(linears)} linear layers and {len(queries)} attentions are no such decoder")
    spikes = [_per_neuron(fired, coding) for fired in linears]
    by_op = {f"layers.{i // len(ROLES)}.{ROLES[i % len(ROLES)]}": s for i, s in enumerate(spikes[:-1])}
    by_role = {role: float(np.mean(spikes[i : -1 : len(ROLES)])) for i, role in enumerate(ROLES)}
    by_role["head"] = spikes[-1]
    by_role["attn:q"] = float(np.mean([_per_neuron(fired, coding) for fired in queries]))
    if probabilities:
        by_role["attn:p"] = float(np.mean([_per_neuron(fired, coding) for fired in probabilities]))
    return SpikeStatistics(levels, coding, group, {**by_op, "head": spikes[-1]}, by_role, measured_keys=keys)


def _per_neuron(fired: OpFiring, coding: Coding) -> float:
    return (fired.bit_spikes if coding == "bitwise" else fired.rate_spikes) / fired.neurons


@lru_cache(maxsize=256)
def gaussian_spikes(levels: int, coding: Coding, group: int, seed: int = 0) -> float:
    """Mean spikes of one of ``group`` normal variables whose largest magnitude gets ``levels`` spikes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((max(1, 65536 // group), group))
    theta = np.abs(x).max(axis=1, keepdims=True) / levels
    return float(spikes_per_count(np.rint(x / theta).astype(np.int32), coding).mean())


@lru_cache(maxsize=256)
def softmax_spikes(levels: int, coding: Coding, context: int, deviation: float = 2.0, seed: int = 0) -> float:
    """Mean spikes of one attention probability over ``context`` keys whose scores are normal.

    Args:
        deviation: Standard deviation of the scores; 2 is assumed.
    """
    rng = np.random.default_rng(seed)
    scores = deviation * rng.standard_normal((max(1, 65536 // context), context))
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    return float(spikes_per_count(np.rint(weight * levels).astype(np.int32), coding).mean())
