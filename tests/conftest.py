"""Fixtures of all tests."""

from helpers.command import command
from helpers.tiny_program import one_level, tiny_program

__all__ = ["command", "one_level", "tiny_program"]
