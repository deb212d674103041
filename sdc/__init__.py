"""sdc: the spike-driven LLM compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdc.api import compile, load

__version__ = "0.1.0"
__all__ = ["__version__", "compile", "load"]


def __getattr__(name: str) -> Any:
    """Loads the library on first use, so that ``sdc --version`` need not load a compiler."""
    if name in ("compile", "load"):
        from sdc import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
