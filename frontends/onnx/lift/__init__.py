"""A normalised graph becomes a Relax module; importing a module here registers its converters."""

from sdc.frontends.onnx.lift import (
    activations,
    attention,
    dense,
    elementwise,
    gather,
    logic,
    ranges,
    reduce,
    rotary,
    shapes,
)
from sdc.frontends.onnx.lift.functions import lift
from sdc.frontends.onnx.lift.lifter import CONVERTERS

__all__ = [
    "CONVERTERS",
    "activations",
    "attention",
    "dense",
    "elementwise",
    "gather",
    "lift",
    "logic",
    "ranges",
    "reduce",
    "rotary",
    "shapes",
]
