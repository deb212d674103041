"""Kernels of the CPU target on NumPy arrays, compiled for a chosen instruction set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import tvm
from helpers.emulator import EmulatedKernels, why_not
from numpy.typing import NDArray
from tvm import tirx
from tvm_ffi import StructuralKey

from sdc.errors import TargetError
from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import LEVELS, Isa, best_level

__all__ = ["Kernels", "every_isa", "every_own_isa", "run_kernel"]

Outputs = Sequence[tuple[tuple[int, ...], str]]


def _runs(isa: Isa) -> bool:
    try:
        return best_level((isa.name,)) is isa
    except TargetError:
        return False


def _emulated(isa: Isa) -> Any:
    """A level of another architecture: among the slow tests, where there is an emulator."""
    why = why_not()
    return pytest.param(isa, marks=[pytest.mark.slow, pytest.mark.skipif(bool(why), reason=why)])


def _is_emulated(isa: Isa) -> bool:
    return isa.name.startswith("aarch64") and not _runs(isa)


_OWN = [isa for isa in LEVELS if _runs(isa)]

# x86's levels that this machine lacks are compiled only (test_isa.py).
every_own_isa = pytest.mark.parametrize("isa", _OWN, ids=lambda isa: isa.name)
every_isa = pytest.mark.parametrize(
    "isa", [*_OWN, *(_emulated(isa) for isa in LEVELS if _is_emulated(isa))], ids=lambda isa: isa.name
)


class Kernels:
    """Kernels by name, compiled together; their arguments are checked here, which takes LLVM no time."""

    def __init__(self, functions: Mapping[str, tirx.PrimFunc], isa: Isa) -> None:
        self._functions = dict(functions)
        self._module = build(self._functions, isa.target(), checks=False)
        self._emulated = EmulatedKernels(self._module, functions) if _is_emulated(isa) else None

    def function(self, name: str) -> Callable[..., None]:
        """A kernel that this machine runs, on tensors."""
        return self._module[name]

    def run(self, name: str, *inputs: NDArray, out: Outputs) -> Any:
        """Calls a kernel with the inputs and fresh outputs of the given shapes and dtypes; returns those."""
        given = [np.asarray(a, order="C") for a in inputs]
        results = [np.zeros(shape, dtype) for shape, dtype in out]
        self.check(name, *given, *results)
        if self._emulated is not None:
            arrays = self._emulated.run(name, [*given, *results])[len(given) :]
        else:
            tensors = [tvm.runtime.tensor(a) for a in results]
            self.function(name)(*[tvm.runtime.tensor(a) for a in given], *tensors)
            arrays = [t.numpy() for t in tensors]
        return arrays[0] if len(arrays) == 1 else arrays

    def check(self, name: str, *arrays: NDArray) -> None:
        """Fails where arrays are none that the kernel takes: rank, dtype, sizes, equal where it says so."""
        known: dict[int, int] = {}
        for param, array in zip(self._functions[name].params, arrays, strict=True):
            shape = list(param.ty.shape)
            wanted = len(shape), str(param.ty.dtype)
            assert (array.ndim, str(array.dtype)) == wanted, (
                f"{name}: {param.name} is {array.dtype}{array.shape}"
            )
            for dimension, size in zip(shape, array.shape, strict=True):
                fixed = isinstance(dimension, tirx.IntImm)
                want = int(dimension.value) if fixed else known.setdefault(hash(dimension), size)
                assert want == size, f"{name}: {param.name} is {array.shape}, not {shape}"


def run_kernel(function: tirx.PrimFunc, isa: Isa, *inputs: NDArray, out: Outputs) -> Any:
    """One kernel, once; see :meth:`Kernels.run`.

    A test's cases give the same kernel other inputs one after the other, and most of a case is compiling: the
    last kernels are kept.
    """
    return _compiled(StructuralKey(function), isa).run("kernel", *inputs, out=out)


@lru_cache(maxsize=32)
def _compiled(function: StructuralKey, isa: Isa) -> Kernels:
    return Kernels({"kernel": function.key}, isa)
