"""Runs one kernel of the CPU target on NumPy arrays, compiled for a chosen instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import tirx

from sdc.errors import TargetError
from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import LEVELS, Isa, best_level

__all__ = ["every_isa", "run_kernel"]


def _runs(isa: Isa) -> bool:
    try:
        return best_level((isa.name,)) is isa
    except TargetError:
        return False


# Levels of other machines are compiled only (test_isa.py).
every_isa = pytest.mark.parametrize("isa", [isa for isa in LEVELS if _runs(isa)], ids=lambda isa: isa.name)


def run_kernel(
    function: tirx.PrimFunc, isa: Isa, *inputs: NDArray, out: list[tuple[tuple[int, ...], str]]
) -> Any:
    """Calls the kernel with the inputs and fresh outputs of the given shapes and dtypes; returns those."""
    module = build({"kernel": function}, isa.target())
    results = [tvm.runtime.tensor(np.zeros(shape, dtype)) for shape, dtype in out]
    module["kernel"](*[tvm.runtime.tensor(np.asarray(a, order="C")) for a in inputs], *results)
    arrays = [r.numpy() for r in results]
    return arrays[0] if len(arrays) == 1 else arrays
