"""Which program wrote a model, said from what the file itself shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["FLAVOURS", "Flavour", "recognise"]


@dataclass(frozen=True)
class Flavour:
    """A way of writing language models in ONNX.

    Attributes:
        name: What people call it.
        shows: What in the file gives it away, for the listing.
        matches: Whether a model as read, before normalisation, is of it.
    """

    name: str
    shows: str
    matches: Callable[[ir.Model], bool]


def recognise(model: ir.Model) -> Flavour:
    """The first flavour that matches; ``unknown`` matches everything."""
    return next(f for f in FLAVOURS if f.matches(model))


def _inputs(model: ir.Model) -> set[str]:
    return {str(i.name) for i in model.graph.inputs}


def _uses(model: ir.Model, *ops: str) -> bool:
    return any(n.domain == "com.microsoft" and n.op_type in ops for n in model.graph)


def _from_torch(model: ir.Model) -> bool:
    return model.producer_name == "pytorch"


def _has_past(model: ir.Model) -> bool:
    return "past_key_values.0.key" in _inputs(model)


def _is_dynamo(model: ir.Model) -> bool:
    """The dynamo exporter names its nodes ``node_...``, the TorchScript exporter ``/module/Op``."""
    return _from_torch(model) and any(str(n.name).startswith("node_") for n in model.graph)


FLAVOURS = (
    Flavour("sdc GGUF", "its producer", lambda m: m.producer_name == "sdc.frontends.gguf"),
    Flavour(
        "ONNX Runtime GenAI",
        "GroupQueryAttention or MatMulNBits of com.microsoft",
        lambda m: m.producer_name == "onnxruntime-genai" or _uses(m, "GroupQueryAttention", "MatMulNBits"),
    ),
    Flavour("torch dynamo", "its producer and node names", _is_dynamo),
    Flavour(
        "Hugging Face Optimum",
        "a TorchScript export with past_key_values inputs, or Optimum as producer",
        lambda m: str(m.producer_name).startswith("optimum") or (_from_torch(m) and _has_past(m)),
    ),
    Flavour("torch TorchScript", "its producer", _from_torch),
    Flavour("standard ONNX", "no other domain than ai.onnx", lambda m: all(not n.domain for n in m.graph)),
    Flavour("unknown", "nothing that is known", lambda _: True),
)
