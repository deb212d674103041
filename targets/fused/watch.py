"""Counts spikes while a program runs: the virtual machine shows every kernel call and its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.ir.ops.attention import scores_to_visible, visible
from sdc.ir.ops.spike_accumulate import integer_product
from sdc.ir.ops.spike_attention import encode_probabilities
from sdc.targets.firing import Firing, OpFiring
from sdc.targets.fused.machine import Machine, as_array
from sdc.targets.fused.runner import UnpackKeys
from sdc.targets.fused.signature import AttentionForm

__all__ = ["watched"]

_GO_ON = 0  # VMInstrumentReturnKind.NO_OP, tvm/runtime/vm/vm.h


class _Watch:
    """The virtual machine's instrument. Kernels come in the order of the program, once a call."""

    def __init__(
        self, firing: Firing, forms: Sequence[AttentionForm], unpack_keys: UnpackKeys | None
    ) -> None:
        self.firing, self.unpack_keys = firing, unpack_keys
        self.forms = forms if unpack_keys else ()
        self.begin(0)

    def begin(self, position: int) -> None:
        """A new call of the program starts, ``position`` tokens into the text."""
        self.position, self.linear, self.attention, self.mixed = position, 0, 0, 0

    def __call__(self, _function: Any, symbol: str, before: bool, _result: Any, *args: Any) -> int:
        if not before and symbol.startswith("spike_linear_"):
            counts, theta, out = as_array(args[0]), as_array(args[1]), args[-1]
            _at(self.firing.linears, self.linear).add(counts, theta, int(out.shape[-1]))
            self.linear += 1
        elif not before and symbol.startswith("encode_"):
            counts, theta = as_array(args[-2]), as_array(args[-1])
            keys = self.position + 1 + np.arange(len(counts))  # causal: token i meets the keys up to its own
            _at(self.firing.attentions, self.attention).add(counts, theta, keys)
            self.attention += 1
        elif not before and symbol.startswith("spike_attention_") and self.mixed < len(self.forms):
            self._count_probabilities(*(as_array(args[i]) for i in (0, 1, 2, 3, 5)))
            self.mixed += 1
        return _GO_ON

    def _count_probabilities(
        self, q: NDArray, q_theta: NDArray, k: NDArray, k_theta: NDArray, v_theta: NDArray
    ) -> None:
        """Their counts never leave the kernel: they are computed again from what it was given.

        q [n, h, d], q_theta [n, h], the target's key cache, thresholds [kv_heads, slots].
        """
        assert self.unpack_keys is not None  # there are no forms otherwise
        fired, form = _at(self.firing.probabilities, self.mixed), self.forms[self.mixed]
        n, heads, width = q.shape
        keys, share = self.position + n, heads // len(k_theta)
        seen = visible(n, keys, self.position, True, form.window)
        cached = self.unpack_keys(k)[:, :keys, :width]
        for head in range(heads):
            kv = head // share
            dots = integer_product(q[:, head], cached[kv]).astype(np.float32)
            thetas = np.float32(form.scale) * q_theta[:, head, None] * k_theta[kv, :keys]
            scores = scores_to_visible(thetas * dots, seen, None, form.softcap)
            counts, _ = encode_probabilities(scores, v_theta[kv, :keys], form.levels)
            fired.add_visible(counts, seen, form.value_width)


def _at(ops: list[OpFiring], index: int) -> OpFiring:
    if index == len(ops):
        ops.append(OpFiring())
    return ops[index]


@contextmanager
def watched(
    machine: Machine,
    firing: Firing,
    forms: Sequence[AttentionForm] = (),
    unpack_keys: UnpackKeys | None = None,
) -> Iterator[_Watch]:
    """Records the firing of every call in the block; ``begin`` of what it yields goes before each.

    Args:
        forms: Of the attentions in order.
        unpack_keys: How the target's key cache is read; without it, probabilities are not counted.
    """
    watch = _Watch(firing, forms, unpack_keys)
    machine.set_instrument(watch)
    try:
        yield watch
    finally:
        machine.set_instrument(None)
