"""ONNX language models become Relax modules: read, normalise to standard operations, lift."""

from sdc.frontends.onnx.check import check_weights
from sdc.frontends.onnx.describe import Description, Part, describe
from sdc.frontends.onnx.load import LiftedModel, load

__all__ = ["Description", "LiftedModel", "Part", "check_weights", "describe", "load"]
