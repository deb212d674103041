"""One thing that is wrong with a mapping."""

from __future__ import annotations

from dataclasses import dataclass

from sdc.targets.neuro.mapping.mapping import Mapping

__all__ = ["Violation", "at"]


@dataclass(frozen=True)
class Violation:
    """A broken rule.

    Attributes:
        kind: Kebab-case name of the rule.
        core: Number of the core, or -1 where no core is to blame.
        where: The core as people write it, ``core 3,2``.
        item: Tile, flow or channel.
        message: What is wrong, with numbers.
    """

    kind: str
    core: int
    where: str
    item: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.item}: {self.message} [{self.kind}]"


def at(mapping: Mapping, kind: str, tile: int, message: str, item: str = "") -> Violation:
    """A violation on the core of a tile."""
    core = int(mapping.core[tile])
    name = item or mapping.partition.tile_name(tile)
    return Violation(kind, core, mapping.grid.label(core), name, message)
