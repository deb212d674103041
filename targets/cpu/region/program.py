"""A lowered function as a list of steps: which kernel, and where each of its arguments lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from sdc.ir.ops import is_op, shape_of
from sdc.targets.cpu.region.plan import Slot

__all__ = ["Fixed", "Step", "Steps", "read_steps"]


@dataclass(frozen=True)
class Fixed:
    """A tensor at a fixed place: ``block`` is ``tokens``, ``position``, ``weights`` or ``states``."""

    block: str
    offset: int = 0


Place = Fixed | Slot


@dataclass(frozen=True)
class Step:
    """A kernel call: its name, and of every tensor argument the place and the shape.

    Attributes:
        in_place: A result is written into an argument.
    """

    kernel: str
    arguments: tuple[tuple[Place, tuple[Any, ...]], ...]
    in_place: bool = False


@dataclass(frozen=True)
class Steps:
    """A function's calls in order, its slots, and the one that it returns."""

    calls: tuple[Step, ...]
    slots: tuple[Slot, ...]
    result: Slot
    result_shape: tuple[Any, ...]


def read_steps(function: relax.Function, fixed: Mapping[Any, Fixed], bound: int) -> Steps | None:
    """The steps of a lowered function; None where it does more than call kernels on tensors.

    Args:
        function: Calls of kernels, reshapes and tuples; returns one tensor.
        fixed: The place of every parameter.
        bound: Largest value of a symbolic length.
    """
    reader = _Reader(fixed, bound)
    for block in function.body.blocks:
        if not all(reader.read(binding) for binding in block.bindings):
            return None
    result = reader.places.get(function.body.body)
    if not isinstance(result, Slot):
        return None
    result.last = len(reader.steps)
    shape = tuple(shape_of(function.body.body, "region"))
    return Steps(tuple(reader.steps), tuple(reader.slots), result, shape)


class _Reader:
    def __init__(self, fixed: Mapping[Any, Fixed], bound: int) -> None:
        self.bound = bound
        self.places: dict[Any, Any] = dict(fixed)
        self.steps: list[Step] = []
        self.slots: list[Slot] = []

    def read(self, binding: Any) -> bool:
        """Takes one binding over; False where that is not possible."""
        value = binding.value
        if isinstance(value, relax.Var):
            made = self.places[value]
        elif isinstance(value, relax.TupleGetItem):
            made = self.places[value.tuple_value][value.index]
        elif is_op(value, "reshape"):
            made = self.places[value.args[0]]
        elif is_op(value, "call_tir"):
            made = self.call(value, [-1] * len(_types(value)))
        elif is_op(value, "call_tir_inplace"):
            made = self.call(value, [int(i) for i in value.attrs.inplace_indices])
        else:
            return False
        self.places[binding.var] = made
        return True

    def call(self, value: relax.Call, held: list[int]) -> Any:
        """A kernel call; ``held`` names the argument that a result is written into, or -1."""
        args = list(value.args[1].fields)
        arguments = [(self.places[a], tuple(shape_of(a, "region"))) for a in args]
        results = []
        for ty, index in zip(_types(value), held, strict=True):
            if index >= 0:
                results.append(arguments[index][0])
                continue
            slot = self.slot(ty)
            arguments.append((slot, tuple(_length(d) for d in ty.shape.values)))
            results.append(slot)
        for place, _ in arguments:
            if isinstance(place, Slot):
                place.last = len(self.steps)
        in_place = any(index >= 0 for index in held)
        self.steps.append(Step(str(value.args[0].name_hint), tuple(arguments), in_place))
        return results if len(results) > 1 else results[0]

    def slot(self, ty: relax.TensorType) -> Slot:
        size = np.dtype(str(ty.dtype)).itemsize
        for length in (_length(d) for d in ty.shape.values):
            size *= length if isinstance(length, int) else self.bound
        self.slots.append(Slot(size, len(self.steps), len(self.steps)))
        return self.slots[-1]


def _types(value: relax.Call) -> list[Any]:
    (ty,) = value.ty_args
    return list(ty.fields) if isinstance(ty, tvm.ir.TupleType) else [ty]


def _length(value: Any) -> Any:
    return int(value) if isinstance(value, tirx.IntImm) else value
