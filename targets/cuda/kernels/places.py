"""Where the rows of a kernel stand: one after another in one cache, or each in a sequence of its own."""

from __future__ import annotations

from typing import Any

from sdc.targets.cuda.emit import let
from sdc.targets.fused.emit import declare, load, symbol

__all__ = ["Places", "apart_name"]


class Places:
    """The argument that says so, and what follows from it for caches.

    Args:
        rows: How many, n.
        apart: Every row is the next token of another sequence: the argument is int64 [2, n], positions above
            and the numbers of sequences (each at most once) below, and caches have the sequences' axis in
            front. Else it is int64 (), the position of the first row.
    """

    def __init__(self, rows: Any, *, apart: bool) -> None:
        self.rows, self.apart = rows, apart
        self.sequences: Any = symbol("sequences") if apart else None

    def declare(self) -> None:
        """The next argument of the kernel."""
        self.argument = declare("position", (2, self.rows) if self.apart else (), "int64")

    def cached(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """The shape of a cache, of one sequence's."""
        return (self.sequences, *shape) if self.apart else shape

    def token(self, row: Any) -> Any:
        """The position of a row."""
        return let(load(self.argument, (0, row))) if self.apart else let(self.argument[()] + row)

    def cache(self, row: Any) -> tuple[Any, ...]:
        """The indices that lead to a row's cache."""
        return (let(load(self.argument, (1, row))),) if self.apart else ()


def apart_name(name: str, *, apart: bool) -> str:
    """A kernel's name."""
    return f"{name}_apart" if apart else name
