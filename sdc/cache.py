"""Where things are kept that are slow to make or to fetch."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """``$SDC_CACHE_DIR``, or the user's cache directory."""
    return Path(os.environ.get("SDC_CACHE_DIR") or platformdirs.user_cache_dir("sdc"))
