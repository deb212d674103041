"""The last token's counts and thresholds, copied out before the head of a prefill."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from sdc.targets.cpu.emit import declare, load, loop, prim_func, store, symbol

__all__ = ["LastRow"]


@dataclass(frozen=True)
class LastRow:
    """Row widths and the counts' dtype."""

    dtype: str
    width: int
    groups: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"last_row_{self.width}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(counts [n, K], theta [n, G], counts [1, K], theta [1, G])``."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n = symbol("n")
        counts = declare("counts", (n, self.width), self.dtype)
        theta = declare("theta", (n, self.groups), "float32")
        last_counts = declare("last_counts", (1, self.width), self.dtype)
        last_theta = declare("last_theta", (1, self.groups), "float32")
        with loop(self.width) as k:
            store(last_counts, (0, k), load(counts, (n - 1, k)))
        with loop(self.groups) as g:
            store(last_theta, (0, g), load(theta, (n - 1, g)))
