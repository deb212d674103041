"""How long each kernel takes: the virtual machine shows every call before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import relax

__all__ = ["KernelTime", "clocked"]

_GO_ON = 0  # VMInstrumentReturnKind.NO_OP, tvm/runtime/vm/vm.h

KernelTime = tuple[str, float]
"""Name of a kernel, and its seconds."""


@contextmanager
def clocked(machine: relax.VirtualMachine, times: list[KernelTime]) -> Iterator[None]:
    """Appends every kernel call of the block, in order. On a device that runs on, calls return early."""
    began = [0.0]

    def see(_function: Any, symbol: str, before: bool, _result: Any, *_args: Any) -> int:
        if before:
            began[0] = time.perf_counter()
        else:
            times.append((symbol, time.perf_counter() - began[0]))
        return _GO_ON

    machine.set_instrument(see)
    try:
        yield
    finally:
        machine.set_instrument(None)
