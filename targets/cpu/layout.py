"""How keys and values lie in the cache, so that attention reads them in whole vectors.

Keys: uint8 [heads, S/16, D/4, 16, 4], a count + 128 per byte: sixteen tokens side by side, four channels a
word, as the byte dot product wants them (its correction is 128 * sum of the query's counts, once per head).
Values: int8 [heads, S/4, D, 4]: four tokens a word, channels side by side, multiplied by unsigned probability
counts. Thresholds: float32 [heads, S]. S is rounded up to whole blocks, D to whole words (keys) or vectors
(values).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.fused.signature import State
from sdc.targets.weights import offsets

__all__ = ["KEY_BLOCK", "KEY_OFFSET", "CacheLayout", "sequence_bytes", "unpack_keys"]

KEY_BLOCK = 16
KEY_OFFSET = 128
_VALUE_CHANNELS = 16
_PAGE = 4096


@dataclass(frozen=True)
class CacheLayout:
    """The cache of one layer's keys or values.

    Attributes:
        heads: Key heads.
        tokens: Tokens that it must hold (the model's max_seq).
        width: Channels per head.
    """

    heads: int
    tokens: int
    width: int

    @property
    def blocks(self) -> int:
        """Blocks of KEY_BLOCK tokens."""
        return -(-self.tokens // KEY_BLOCK)

    @property
    def slots(self) -> int:
        """Tokens, rounded up to whole blocks."""
        return self.blocks * KEY_BLOCK

    @property
    def words(self) -> int:
        """Words of four channels per key."""
        return -(-self.width // 4)

    @property
    def channels(self) -> int:
        """Channels per value, rounded up to whole vectors."""
        return -(-self.width // _VALUE_CHANNELS) * _VALUE_CHANNELS

    @property
    def key_shape(self) -> tuple[int, ...]:
        """Shape of the keys' bytes, uint8."""
        return (self.heads, self.blocks, self.words, KEY_BLOCK, 4)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of the values' bytes, int8."""
        return (self.heads, self.slots // 4, self.channels, 4)

    @property
    def theta_shape(self) -> tuple[int, ...]:
        """Shape of the thresholds, float32."""
        return (self.heads, self.slots)


def sequence_bytes(states: Sequence[State]) -> int:
    """Bytes of one sequence's states, one after another, rounded up to whole pages."""
    last = offsets([(s.shape, s.dtype) for s in states])[-1] if states else 0
    size = math.prod(states[-1].shape) * np.dtype(states[-1].dtype).itemsize if states else 0
    return -(-(last + size) // _PAGE) * _PAGE


def unpack_keys(cache: NDArray) -> NDArray:
    """Counts int16 [heads, slots, 4 * words] of the keys' bytes."""
    heads, blocks, words, slots, lanes = cache.shape
    tokens_first = cache.transpose(0, 1, 3, 2, 4).reshape(heads, blocks * slots, words * lanes)
    return tokens_first.astype(np.int16) - np.int16(KEY_OFFSET)
