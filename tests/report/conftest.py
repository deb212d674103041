"""Fixtures of the report's tests."""

from helpers.tiny_program import one_level, tiny_program

__all__ = ["one_level", "tiny_program"]
