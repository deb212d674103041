"""Checks of a lifted model that read every weight, so they are not part of loading."""

from __future__ import annotations

from collections.abc import Callable

from sdc.ir.model import Model

__all__ = ["check_weights"]


def check_weights(model: Model, progress: Callable[[int, int], None] | None = None) -> None:
    """Reads every weight once, one at a time.

    Args:
        model: A lifted model.
        progress: Called with (weights read, weights in all).

    Raises:
        NumericsError: A weight holds NaN or an infinite value; the error names it.
    """
    for done, param in enumerate(model.params.values(), start=1):
        param.value()
        if progress is not None:
            progress(done, len(model.params))
