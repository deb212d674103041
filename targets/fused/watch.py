"""Counts spikes while a program runs: the virtual machine shows every kernel call and its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tvm import relax

from sdc.targets.firing import Firing, OpFiring

__all__ = ["watched"]

_GO_ON = 0  # VMInstrumentReturnKind.NO_OP, tvm/runtime/vm/vm.h


class _Watch:
    """The virtual machine's instrument. Kernels come in the order of the program, once a call."""

    def __init__(self, firing: Firing) -> None:
        self.firing = firing
        self.begin(0)

    def begin(self, position: int) -> None:
        """A new call of the program starts, ``position`` tokens into the text."""
        self.position, self.linear, self.attention = position, 0, 0

    def __call__(self, _function: Any, symbol: str, before: bool, _result: Any, *args: Any) -> int:
        if not before and symbol.startswith("spike_linear_"):
            counts, theta, out = args[0].numpy(), args[1].numpy(), args[-1]
            _at(self.firing.linears, self.linear).add(counts, theta, int(out.shape[-1]))
            self.linear += 1
        elif not before and symbol.startswith("encode_"):
            counts, theta = args[-2].numpy(), args[-1].numpy()
            keys = self.position + 1 + np.arange(len(counts))  # causal: token i meets the keys up to its own
            _at(self.firing.attentions, self.attention).add(counts, theta, keys)
            self.attention += 1
        return _GO_ON


def _at(ops: list[OpFiring], index: int) -> OpFiring:
    if index == len(ops):
        ops.append(OpFiring())
    return ops[index]


@contextmanager
def watched(machine: relax.VirtualMachine, firing: Firing) -> Iterator[_Watch]:
    """Records the firing of every call in the block; ``begin`` of what it yields goes before each."""
    watch = _Watch(firing)
    machine.set_instrument(watch)
    try:
        yield watch
    finally:
        machine.set_instrument(None)
