"""ONNX language models become Relax modules: read, normalise to standard operations, lift."""

from sdc.frontends.onnx.load import LiftedModel, load

__all__ = ["LiftedModel", "load"]
