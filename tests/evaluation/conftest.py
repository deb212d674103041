"""Fixtures of the evaluation tests."""

from helpers.tiny_program import one_level, tiny_program

__all__ = ["one_level", "tiny_program"]
