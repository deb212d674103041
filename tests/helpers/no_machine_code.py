"""A CUDA compiler that makes no machine code, where a test is about the rest of a build."""

from __future__ import annotations

from typing import Any

import pytest

from sdc.targets.cuda.compiled import Compiled

__all__ = ["without_machine_code"]


class _NoMachineCode:
    name = "none"

    def fat_binary(self, _source: str, _archs: Any) -> Compiled:
        return Compiled(b"", ())


def without_machine_code(patch: pytest.MonkeyPatch) -> None:
    """CUDA programs are built with it until ``patch`` is undone."""
    patch.setattr("sdc.targets.cuda.target.find_compiler", _NoMachineCode)
