"""Why one format's products cost less than another's: a chain of factors whose product is the ratio."""

from __future__ import annotations

from dataclasses import dataclass

from sdc.energy.account import Account
from sdc.energy.formats import Format
from sdc.energy.tables import EnergyTable

__all__ = ["Factors", "factors"]


@dataclass(frozen=True)
class Factors:
    """Energy of the products of ``base`` over that of ``other``, factor by factor.

    Attributes:
        time_steps: Steps of a train, base over other.
        firing_rate: Operations per input, synapse and step, base over other, as both accounts counted them.
        operation: A multiply-add over the addition in it (1 where both are additions, or both multiply).
        word_width: Addition over addition: what the width of the accumulators makes.
        compute_only: The ratio of products: the product of the four.
        everything: The ratio of all components.
    """

    base: str
    other: str
    time_steps: float
    firing_rate: float
    operation: float
    word_width: float
    compute_only: float
    everything: float


def factors(
    base: Account,
    base_format: Format,
    other: Account,
    other_format: Format,
    table: EnergyTable,
) -> Factors:
    """The factors between two accounts of the same work with the same table."""
    operations = base.counts["synaptic_operations"] / other.counts["synaptic_operations"]
    steps = base_format.time_steps / other_format.time_steps
    width = table.add[base_format.accumulate] / table.add[other_format.accumulate]
    cost = base_format.operation(table) / other_format.operation(table)
    return Factors(
        base=base.format,
        other=other.format,
        time_steps=steps,
        firing_rate=operations / steps,
        operation=cost / width,
        word_width=width,
        compute_only=base.compute_only / other.compute_only,
        everything=base.everything / other.everything,
    )
