"""How keys and values lie in the cache, so that attention reads them in whole words.

Keys: int8 [heads, S, D], one after the other. Values: int8 [heads, S / 4, D, 4]: four tokens a word, as dp4a
and the tensor cores want them against four probability counts. Thresholds: float32 [heads, S]. S is rounded
up to whole pieces of the context (:data:`PIECE`), so that kernels may read past the last token (and ignore
what they read).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PIECE", "CacheLayout"]

# Keys that one warp of decode attention sees; a multiple of the 32 keys of a tensor-core step.
PIECE = 64


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
    def pieces(self) -> int:
        """Pieces of the context."""
        return -(-self.tokens // PIECE)

    @property
    def slots(self) -> int:
        """Tokens, rounded up to whole pieces."""
        return self.pieces * PIECE

    @property
    def key_shape(self) -> tuple[int, ...]:
        """Shape of the keys' counts, int8."""
        return (self.heads, self.slots, self.width)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of the values' counts, int8."""
        return (self.heads, self.slots // 4, self.width, 4)

    @property
    def theta_shape(self) -> tuple[int, ...]:
        """Shape of the thresholds, float32."""
        return (self.heads, self.slots)
