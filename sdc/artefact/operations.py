"""The operation table of a manifest, read off the spiking module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import relax

from sdc.ir.coding import time_steps
from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_op, shape_of

__all__ = ["count_dense", "operation_table"]

_DENSE = (
    "matmul",
    "linear",
    "sdc.linear",
    "sdc.attention",
    "nn.attention",
    "einsum",
    "nn.conv1d",
    "nn.conv2d",
)


def operation_table(model: Model) -> list[dict[str, Any]]:
    """One entry a linear or product of activations, in the order of the program: JSON values.

    ``synapses`` is the number of weights; 0 where both factors are activations.
    """
    producer = {b.var: b.value for b in _bindings(model)}
    table = []
    for binding in _bindings(model):
        call = binding.value
        if is_op(call, "sdc.spike_accumulate"):
            table.append(_linear(call, producer))
        elif is_op(call, "sdc.spike_attention"):
            table.append(_attention(call, producer))
        elif is_op(call, "sdc.spike_matmul"):
            table.append(_entry(attributes(call), "matmul", _encoder(call.args[0], producer), 0, 0))
    return table


def count_dense(model: Model) -> int:
    """Products of float matrices that are left."""
    return sum(any(is_op(b.value, name) for name in _DENSE) for b in _bindings(model))


def _bindings(model: Model) -> Iterator[Any]:
    for block in model.module[model.entry].body.blocks:
        yield from block.bindings


def _linear(call: relax.Call, producer: dict[Any, Any]) -> dict[str, Any]:
    own = attributes(call)
    outputs, inputs = shape_of(call.args[1], "operation_table")
    entry = _entry(own, "linear", _encoder(call.args[0], producer), own["weight_bits"], outputs * inputs)
    return {**entry, "inputs": inputs, "outputs": outputs}


def _attention(call: relax.Call, producer: dict[Any, Any]) -> dict[str, Any]:
    own = attributes(call)
    entry = _entry(own, "attention", _encoder(call.args[0], producer), 0, 0)
    heads = int(shape_of(call.args[0], "operation_table")[2])
    return {**entry, "probability_levels": own["levels"], "heads": heads}


def _entry(
    own: dict[str, Any], kind: str, encoder: dict[str, Any], weight_bits: int, synapses: int
) -> dict[str, Any]:
    return {
        "name": str(own["name"]),
        "kind": kind,
        "levels": encoder["levels"],
        "coding": encoder["coding"],
        "time_steps": time_steps(encoder["coding"], encoder["levels"]),
        "group": encoder["group"],
        "clip_ratio": encoder["clip_ratio"],
        "dead_zone": encoder["dead_zone"],
        "floor": encoder["floor"],
        "weight_bits": weight_bits,
        "synapses": synapses,
    }


def _encoder(expr: Any, producer: dict[Any, Any]) -> dict[str, Any]:
    """Attributes of the encoder whose counts ``expr`` is, through views and tuple items."""
    while not is_op(expr, "sdc.spike_encode"):
        if isinstance(expr, relax.Var):
            expr = producer[expr]
        elif isinstance(expr, relax.TupleGetItem):
            expr = expr.tuple_value
        else:
            expr = expr.args[0]
    return attributes(expr)
