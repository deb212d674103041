"""Formats side by side on the same work, and the factors between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sdc.energy.account import Account, Accumulators, account
from sdc.energy.factors import Factors, factors
from sdc.energy.formats import Format
from sdc.energy.tables import EnergyTable
from sdc.energy.work import Work

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Several formats of one model.

    Attributes:
        model: Its name.
        context: Keys that a query meets.
        table: The energies.
        accounts: One a format; the first is the one that the others are compared with.
        factors: From each of the others to the first.
    """

    model: str
    context: float
    table: EnergyTable
    accounts: tuple[Account, ...]
    factors: tuple[Factors, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; operation by operation for the first format, sums for the others."""
        first, *others = (a.to_json() for a in self.accounts)
        return {
            "model": self.model,
            "context": self.context,
            "table": self.table.name,
            "table_source": self.table.source,
            "table_derived": list(self.table.derived),
            "formats": [first, *({k: v for k, v in a.items() if k != "ops"} for a in others)],
            "factors": [asdict(f) for f in self.factors],
        }


def compare(
    entries: Sequence[tuple[Work, Format]],
    table: EnergyTable,
    *,
    batch: float = 1,
    accumulators: Accumulators = "memory",
) -> Comparison:
    """Accounts of each entry, and the factors from every other one to the first. See :func:`account`."""
    made = [account(work, form, table, batch=batch, accumulators=accumulators) for work, form in entries]
    first, form = made[0], entries[0][1]
    ratios = [
        factors(other, its, first, form, table) for other, (_, its) in zip(made[1:], entries[1:], strict=True)
    ]
    work = entries[0][0]
    return Comparison(work.name, work.context, table, tuple(made), tuple(ratios))
