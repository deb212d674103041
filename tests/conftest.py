"""Fixtures of all tests, their order, and their share of the processors."""

from __future__ import annotations

import gc
import os

import pytest

# A worker of xdist has a processor to itself: threads of BLAS would spin between small products.
# Set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from helpers.command import command
from helpers.tiny_program import one_level, tiny_program
from hypothesis import settings

__all__ = ["command", "one_level", "tiny_program"]

# Other programs on the machine must not make a property fail: a test of time is none.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

LONGEST = ("test_documentation.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: a worker that meets it last would keep the others waiting."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Modules and tests stay: the collector need not walk them again and again."""
    gc.collect()
    gc.freeze()
