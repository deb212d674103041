"""Accumulators that are read out group by group, so that [tokens, groups, N] is never held at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.ir.ops.readout import group_term
from sdc.ir.ops.spike_accumulate import integer_product, reference

__all__ = ["PendingAccumulator"]


@dataclass(frozen=True)
class PendingAccumulator:
    """``spike_accumulate(counts, weight)`` not yet computed: only a readout wants it.

    Attributes:
        counts: [..., K] integer.
        weight: [N, K] int8.
        group: Channels per group.
    """

    counts: NDArray
    weight: NDArray
    group: int

    def materialise(self) -> NDArray:
        """The accumulators, int32 [..., K / group, N]."""
        return reference(self.counts, self.weight, group=self.group)

    def readout(self, theta: NDArray, weight_scale: NDArray, bias: NDArray | None = None) -> NDArray:
        """What ``sdc.readout`` of the accumulators gives, float32 [..., N], in the same order of sums."""
        groups = self.weight.shape[1] // self.group
        y = np.zeros((*self.counts.shape[:-1], self.weight.shape[0]), np.float32)
        flat = self.counts.reshape(-1, groups, self.group)
        for g in range(groups):
            acc = integer_product(flat[:, g], self.weight[:, g * self.group : (g + 1) * self.group])
            y += group_term(acc.reshape(y.shape), theta, weight_scale, g, groups)
        return y if bias is None else y + bias
