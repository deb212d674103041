"""What a fused kernel computes: shapes and flags that decide its code, the same words for all targets.

Numbers that are calibrated per operation are arguments of a kernel (:func:`limits`), so layers share kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdc.ir.ops import threshold_factor

__all__ = [
    "AttentionSpec",
    "EncodeSpec",
    "Encoder",
    "HeadSpec",
    "HeadsSpec",
    "LinearSpec",
    "Rotary",
    "Stream",
    "limits",
]


@dataclass(frozen=True)
class LinearSpec:
    """Shapes of one fused spike_accumulate + readout.

    Attributes:
        rows: Output channels N.
        width: Input channels K.
        group: Channels per accumulator; divides K.
        bits: 8; 4 for weights -8..7, two a byte; 2 for weights -2..1 (ternary ones among them), four a byte.
        levels: Largest count.
        theta_groups: Thresholds per token (divides K / group).
        scale_groups: Weight scales per row (divides K / group).
        unsigned: Counts are uint8 (weights then stay signed, 8 bits).
        bias: A bias [N] is added.
        residual: A float tensor of the output's shape is added last.
        tokens: Rows of counts, or 0 where symbolic.
        raw: Give int32 accumulators [n, K / group, N] instead of the readout (tests).
        short_scales: Weight scales are bfloat16 numbers, stored in 16 bits.
    """

    rows: int
    width: int
    group: int
    bits: int = 8
    levels: int = 127
    theta_groups: int = 1
    scale_groups: int = 1
    unsigned: bool = False
    bias: bool = False
    residual: bool = False
    tokens: int = 0
    raw: bool = False
    short_scales: bool = False

    @property
    def groups(self) -> int:
        """Accumulators per output row."""
        return self.width // self.group

    def key(self) -> str:
        """A name for the kernel."""
        choices = {"u": self.unsigned, "b": self.bias, "a": self.residual, "r": self.raw}
        choices["h"] = self.short_scales
        flags = "".join(flag for flag, on in choices.items() if on)
        tokens = self.tokens or "n"
        return (
            f"spike_linear_{tokens}x{self.width}x{self.rows}_g{self.group}_w{self.bits}_t{self.theta_groups}"
            f"_s{self.scale_groups}_d{self.levels}{flags}"
        )


@dataclass(frozen=True)
class Encoder:
    """What of a ``sdc.spike_encode`` shapes its kernel.

    The numbers, calibrated per operation, come at run time as ``limits`` [numbers] (see :func:`limits`): so
    the operations of all layers share a kernel.

    Attributes:
        zoned: There is a dead zone.
        floored: There is a least threshold, the fourth of the numbers.
    """

    dtype: str
    group: int
    signed: bool = True
    zoned: bool = False
    floored: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers come at run time."""
        return 4 if self.floored else 3


def limits(levels: int, clip_ratio: float, dead_zone: float, floor: float = 0.0) -> NDArray:
    """The run-time numbers of an encoder, float32: threshold factor, levels, dead zone and, if any, floor."""
    numbers = [threshold_factor(levels, clip_ratio), levels, dead_zone, *([floor] if floor > 0 else [])]
    return np.array(numbers, np.float32)


@dataclass(frozen=True)
class Stream:
    """Where a row's channels lie: ``tensor``'s rows have ``stride`` floats, ours begin at ``offset``."""

    tensor: int
    stride: int
    offset: int


@dataclass(frozen=True)
class EncodeSpec:
    """One fused encoder.

    Attributes:
        width: Channels K.
        streams: One source, or two where the first goes through ``gate`` and multiplies the second.
        norm: ``rms``, ``layer`` or nothing.
        scaled: A vector [K] multiplies the row after the norm.
        block: Hadamard block, 0 for none.
        tokens: Rows, or 0 where symbolic.
    """

    width: int
    encoder: Encoder
    streams: tuple[Stream, ...]
    gate: str = ""
    norm: str = ""
    epsilon: float = 0.0
    scaled: bool = False
    block: int = 0
    tokens: int = 0

    def key(self) -> str:
        """A name for the kernel (shapes and steps; not unique across constants)."""
        steps = [s for s in (self.gate, self.norm, "scale" * self.scaled) if s]
        if self.block:
            steps.append(f"h{self.block}")
        return "_".join([*steps, f"spike_encode_{self.tokens or 'n'}x{self.width}_g{self.encoder.group}"])


@dataclass(frozen=True)
class Rotary:
    """Tables [length, half]; pairs lie ``half`` apart, or side by side where ``interleaved``."""

    length: int
    half: int
    interleaved: bool = False


@dataclass(frozen=True)
class HeadSpec:
    """One of query, key and value.

    Attributes:
        role: ``query`` goes out plainly; ``key`` and ``value`` go into their cache.
        source: Where the heads' channels lie in a token's row.
        encoder: Its group is the head's width.
    """

    role: Literal["query", "key", "value"]
    source: Stream
    heads: int
    width: int
    encoder: Encoder
    rotary: bool = False
    block: int = 0


@dataclass(frozen=True)
class HeadsSpec:
    """All heads of one attention; ``tokens`` is 0 where symbolic, ``slots`` is the cache's max_seq."""

    parts: tuple[HeadSpec, ...]
    rotary: Rotary | None
    slots: int
    tokens: int = 0

    def key(self) -> str:
        """A name for the kernel."""
        return "encode_" + "_".join(p.role for p in self.parts) + f"_{self.tokens or 'n'}"


@dataclass(frozen=True)
class AttentionSpec:
    """Shapes and attributes of one causal ``sdc.spike_attention``.

    Attributes:
        slots: The cache's max_seq.
        width: Channels per query and key head; ``value_width`` per value head.
        levels: Largest probability count.
        query_levels: Largest query count.
        value_levels: Largest value count.
        encoder: Encode the output at once (its group divides ``value_width``), after a Hadamard of ``block``.
        tokens: Queries, or 0 where symbolic.
    """

    heads: int
    kv_heads: int
    width: int
    value_width: int
    slots: int
    scale: float
    levels: int = 255
    query_levels: int = 127
    value_levels: int = 127
    window: int = 0
    softcap: float = 0.0
    encoder: Encoder | None = None
    block: int = 0
    tokens: int = 0

    def key(self) -> str:
        """A name for the kernel."""
        return f"spike_attention_{self.tokens or 'n'}_h{self.heads}" + ("_encode" if self.encoder else "")
