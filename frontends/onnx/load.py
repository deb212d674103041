"""From a file to a lifted model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path

import onnx_ir as ir

from sdc.frontends.onnx.lift import lift
from sdc.frontends.onnx.normalise import normalise
from sdc.frontends.onnx.read import read_model
from sdc.ir.model import Model, ModelInfo

__all__ = ["DEFAULT_MAX_SEQ", "LiftedModel", "facts", "load"]

DEFAULT_MAX_SEQ = 2048

LiftedModel = Model


def load(path: str | Path, max_seq: int | None = None) -> LiftedModel:
    """Reads, normalises and lifts an ONNX model; weights stay memory-mapped and lazy.

    Args:
        path: The ``.onnx`` file; external data beside it.
        max_seq: Tokens that a decoder's cache holds; by default 2048, or the model's context if shorter.

    Raises:
        InvalidModelError: The file is damaged, incomplete or inconsistent.
        UnsupportedOpError: It holds operations without a lifting rule; all are listed.
    """
    model = read_model(path)
    info = facts(model, path, max_seq)
    matched = normalise(model)
    lifted = lift(model, info, exact=max_seq is not None)
    return reduce(Model.with_note, _remarks(matched), lifted)


def _remarks(matched: Mapping[str, int]) -> Iterator[str]:
    """What a user should know of the rules that matched."""
    if dropped := matched["quantised activations"]:
        yield (
            f"frontend: {dropped} quantised activations of the file are taken as float; encoding them as "
            "spikes takes the place of that"
        )


def facts(model: ir.Model, path: str | Path, max_seq: int | None) -> ModelInfo:
    """What a file says about itself before it is lifted."""
    stated = model.metadata_props.get("context_length", "")
    context = int(stated) if stated.isdigit() else DEFAULT_MAX_SEQ
    return ModelInfo(
        name=str(model.graph.name or Path(path).stem),
        exporter=f"{model.producer_name or 'unknown'} {model.producer_version or ''}".strip(),
        opset=int(model.opset_imports.get("", 0)),
        source=str(path),
        max_seq=max_seq or min(context, DEFAULT_MAX_SEQ),
    )
