"""How the host talks to a program, and what it may listen to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Port", "Probe"]


@dataclass(frozen=True)
class Port:
    """A vector that the host sends to a core, or takes from some, for every token.

    Attributes:
        core: The receiver of an input; for an output one of the senders.
        dtype: Of the words: ``int32`` (token ids) or ``float32``.
        sources: Cores that send an output.
        row_bytes: Where not 0, the host sends not the input but the row of this size that it names in a table
            outside the machine.
        offset: Where that table begins.
    """

    name: str
    core: int
    tag: int
    shape: tuple[int, ...]
    dtype: str
    sources: int = 1
    row_bytes: int = 0
    offset: int = 0

    @property
    def size(self) -> int:
        """Words."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Probe:
    """Where the counts of an operation are made: instruction ``pc`` of ``core``, a ``count``.

    Attributes:
        fan_out: Synapses that each spike meets; for attentions 0: as many as there are keys.
    """

    name: str
    kind: Literal["linear", "attention"]
    core: int
    pc: int
    fan_out: int
