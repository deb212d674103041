"""A normalised graph becomes a Relax module with lazy weights."""

from sdc.frontends.onnx.lift import attention, dense, elementwise, rotary, shapes
from sdc.frontends.onnx.lift.functions import lift
from sdc.frontends.onnx.lift.lifter import CONVERTERS

__all__ = ["CONVERTERS", "attention", "dense", "elementwise", "lift", "rotary", "shapes"]
