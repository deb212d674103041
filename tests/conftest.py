"""Fixtures of all tests, and their order."""

from __future__ import annotations

import pytest
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
