"""What ``sdc inspect model.onnx`` says about a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.flavour import recognise
from sdc.frontends.onnx.lift import lift
from sdc.frontends.onnx.load import facts
from sdc.frontends.onnx.normalise import normalise
from sdc.frontends.onnx.read import read_model
from sdc.ir.model import Model, ModelInfo
from sdc.ir.ops import attributes

__all__ = ["Description", "Part", "describe"]


@dataclass(frozen=True)
class Part:
    """Operations of one kind and size in the lifted module, layers told apart by number only.

    Attributes:
        kind: The operation, without ``relax.``.
        name: Its name, ``*`` for numbers; "" where it has none.
        detail: Sizes and options, for people.
        count: How many there are.
    """

    kind: str
    name: str
    detail: str
    count: int


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
        parts: Products, norms and rotary embeddings of the lifted module, in order.
        model: The lifted module with its weights; None where something is unsupported.
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
    parts: tuple[Part, ...] = ()
    model: Model | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``; without the module."""
        return asdict(replace(self, model=None)) | {"model": None}


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
        parts=_parts(lifted) if lifted else (),
        model=lifted,
    )


def _operations(model: ir.Model) -> dict[str, int]:
    return _sorted(Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph))


def _lifted_operations(model: Model) -> dict[str, int]:
    return _sorted(Counter(kind for kind, _ in _calls(model)))


def _calls(model: Model) -> list[tuple[str, relax.Call]]:
    """Kind and call of every operation of the entry function, in order."""
    values = [b.value for block in model.module[model.entry].body.blocks for b in block.bindings]
    named = [(str(getattr(getattr(v, "op", None), "name", "")), v) for v in values]
    return [(name.removeprefix("relax."), v) for name, v in named if name]


def _parts(model: Model) -> tuple[Part, ...]:
    found: Counter[tuple[str, str, str]] = Counter()
    for kind, call in _calls(model):
        if kind in _DETAILS:
            name = re.sub(r"\d+", "*", str(attributes(call).get("name", "")))
            found[kind, name, _DETAILS[kind](call)] += 1
    return tuple(Part(*key, count) for key, count in found.items())


def _sizes(expr: relax.Expr) -> list[Any]:
    return [int(d) if isinstance(d, tirx.IntImm) else str(d) for d in expr.ty.shape.values]


def _linear(call: relax.Call) -> str:
    rows, width = _sizes(call.args[1])
    return f"{width} -> {rows}{' + bias' if len(call.args) > 2 else ''}"


def _attention(call: relax.Call) -> str:
    attrs, query, keys = attributes(call), _sizes(call.args[0]), _sizes(call.args[1])
    words = [f"{query[2]} heads of {query[3]} on {keys[1]} of keys and values"]
    words.append("causal" if attrs["causal"] else "open")
    words += [f"{what} {attrs[what]:g}" for what in ("window", "softcap") if attrs[what]]
    return ", ".join(words + (["with a mask or bias"] if len(call.args) > 4 else []))


_DETAILS: dict[str, Callable[[relax.Call], str]] = {
    "sdc.linear": _linear,
    "sdc.attention": _attention,
    "matmul": lambda call: f"{_sizes(call.args[0])} x {_sizes(call.args[1])}",
    "sdc.rotary": lambda call: f"{2 * _sizes(call.args[1])[1]} of {_sizes(call.args[0])[3]} channels",
    "nn.rms_norm": lambda call: f"{_sizes(call.args[1])[0]} channels",
    "nn.layer_norm": lambda call: f"{_sizes(call.args[1])[0]} channels",
}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _signature(value: ir.Value) -> str:
    return f"{value.name}: {value.dtype}{value.shape if value.shape is not None else '[?]'}"
