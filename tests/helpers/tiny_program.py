"""A compiled tiny program, once a test run."""

from __future__ import annotations

import pytest

__all__ = ["one_level", "tiny_program"]


@pytest.fixture(scope="session")
def one_level():
    """Compiles for this machine only, which is quicker."""
    # Imported here: the process that only hands tests to workers reads this file too.
    from sdc.targets import TARGETS, find_target
    from sdc.targets.cpu import CpuTarget
    from sdc.targets.cpu.isa import best_level

    before = find_target("cpu")
    TARGETS["cpu"] = CpuTarget((best_level().name,))
    yield
    TARGETS["cpu"] = before


@pytest.fixture(scope="session")
def tiny_program(one_level, tmp_path_factory):
    """The path of a program with a cache of 64 tokens; its source stands beside it."""
    from helpers.tiny_source import tiny_source

    from sdc.api import compile_to
    from sdc.config import CompileConfig

    folder = tmp_path_factory.mktemp("program")
    source = tiny_source(folder / "source")
    return compile_to(source, folder / "tiny.sdc", CompileConfig.of(max_seq=64)).path
