"""What ``sdc inspect model.onnx`` says about a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.flavour import recognise
from sdc.frontends.onnx.lift import lift
from sdc.frontends.onnx.load import facts
from sdc.frontends.onnx.normalise import normalise
from sdc.frontends.onnx.read import read_model
from sdc.ir.model import Model, ModelInfo

__all__ = ["Description", "describe"]


@dataclass(frozen=True)
class Description:
    """Facts about an ONNX file, and what becomes of it.

    Attributes:
        flavour: The exporter's way of writing, as recognised.
        recognised_by: What in the file shows the flavour.
        info: Architecture facts; ``kind`` says what it would be compiled as.
        inputs, outputs: ``name: TYPE[shape]`` of the graph.
        weight_bytes: Bytes of all initializers as stored.
        weight_types: Initializers by element type.
        nodes: Operations of the file, functions inlined, by number.
        matched: How often each normalisation matched.
        normalised: Operations that are left after normalisation.
        lifted: Operations of the lifted module.
        unsupported: Operations without a lifting rule; the model compiles where this is empty.
    """

    flavour: str
    recognised_by: str
    info: ModelInfo
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: int
    weight_types: Mapping[str, int]
    nodes: Mapping[str, int]
    matched: Mapping[str, int]
    normalised: Mapping[str, int]
    lifted: Mapping[str, int]
    unsupported: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return asdict(self)


def describe(path: str | Path, max_seq: int | None = None) -> Description:
    """Reads, normalises and lifts a model as :func:`sdc.frontends.onnx.load` would, and says what happened.

    Raises:
        InvalidModelError: The file is damaged, incomplete or inconsistent.
    """
    model = read_model(path)
    flavour = recognise(model)
    info = facts(model, path, max_seq)
    tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    nodes = _operations(model)
    matched = normalise(model)
    normalised = _operations(model)
    lifted: Model | None = None
    unsupported: tuple[str, ...] = ()
    try:
        lifted = lift(model, info, exact=max_seq is not None)
    except UnsupportedOpError as error:
        unsupported = error.offenders
    return Description(
        flavour=flavour.name,
        recognised_by=flavour.shows,
        info=lifted.info if lifted else info,
        inputs=tuple(_signature(v) for v in model.graph.inputs),
        outputs=tuple(_signature(v) for v in model.graph.outputs),
        weight_bytes=sum(int(t.nbytes) for t in tensors),
        weight_types=_sorted(Counter(str(t.dtype) for t in tensors)),
        nodes=nodes,
        matched={rule: count for rule, count in matched.items() if count},
        normalised=normalised,
        lifted=_lifted_operations(lifted) if lifted else {},
        unsupported=unsupported,
    )


def _operations(model: ir.Model) -> dict[str, int]:
    return _sorted(Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph))


def _lifted_operations(model: Model) -> dict[str, int]:
    bindings = [b for block in model.module[model.entry].body.blocks for b in block.bindings]
    names = (str(getattr(getattr(b.value, "op", None), "name", "")) for b in bindings)
    return _sorted(Counter(name.removeprefix("relax.") for name in names if name))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _signature(value: ir.Value) -> str:
    return f"{value.name}: {value.dtype}{value.shape if value.shape is not None else '[?]'}"
