"""Errors of libraries on a damaged graph, as errors for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdc.errors import InvalidModelError

__all__ = ["refusing"]

_UNEXPECTED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)


@contextmanager
def refusing(where: str, next_step: str = "") -> Iterator[None]:
    """What is done inside takes for granted what holds of valid models.

    Args:
        where: Begins the error: the part of the graph, and that it does not fit.
        next_step: Ends the error.

    Raises:
        InvalidModelError: In place of an error of another kind, whose first line it quotes.
    """
    try:
        yield
    except _UNEXPECTED as error:
        what = str(error).strip().split("\n")[0]
        raise InvalidModelError(f"{where} ({type(error).__name__}: {what}){next_step}") from error
