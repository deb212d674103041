"""Chains of operations that one kernel computes.

Matching is on the dialect's own operations. A match names the tensors that it reads, and is emitted where its
last operation stood; what it made superfluous is not needed by anything any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sdc.ir.ops import attributes, count_dtype, dtype_of, shape_of
from sdc.targets.fused.graph import Graph
from sdc.targets.fused.specs import (
    Encoder,
    EncodeSpec,
    LinearSpec,
    Stream,
)

__all__ = [
    "NARROW_LEVELS",
    "Chain",
    "Encode",
    "Limits",
    "Linear",
    "encoder_of",
    "limits_of",
    "match_encode",
    "match_linear",
    "stream_of",
]


Limits = tuple[int, float, float, float]


@dataclass(frozen=True)
class Linear:
    """spike_accumulate -> readout (-> add): ``out`` is the last variable, ``name`` the operation's."""

    spec: LinearSpec
    counts: Any
    theta: Any
    weight: Any
    scale: Any
    bias: Any
    residual: Any
    out: Any
    name: str


@dataclass(frozen=True)
class Encode:
    """(norm | gate) -> scale -> hadamard -> spike_encode; ``sources`` are the streams' tensors."""

    spec: EncodeSpec
    sources: tuple[Any, ...]
    gain: Any
    shift: Any
    scale: Any
    signs: Any
    limits: Limits
    out: Any


def match_linear(graph: Graph, var: Any) -> Linear | None:
    """A readout whose accumulator comes from a weight and is used nowhere else."""
    readout = graph.call(var, "sdc.readout")
    if readout is None:
        return None
    acc = graph.root(readout.args[0])
    accumulate = graph.call(acc, "sdc.spike_accumulate")
    if accumulate is None or graph.sole_reader(acc) is None or graph.weight(accumulate.args[1]) is None:
        return None
    counts, weight = accumulate.args
    dtype, attrs = dtype_of(counts), attributes(accumulate)
    theta, scale = readout.args[1], readout.args[2]
    bias = readout.args[3] if len(readout.args) > 3 else None
    if dtype not in ("int8", "uint8") or any(graph.weight(w) is None for w in (scale, bias) if w is not None):
        return None
    rows, width = (int(d) for d in shape_of(weight, "lower"))
    spec = LinearSpec(
        rows,
        width,
        attrs["group"],
        bits=_stored_bits(attrs["weight_bits"]) if dtype == "int8" else 8,
        levels=_levels(graph, counts),
        theta_groups=int(shape_of(theta, "lower")[-1]),
        scale_groups=int(shape_of(scale, "lower")[1]),
        unsigned=dtype == "uint8",
        bias=bias is not None,
    )
    out, residual = var, None
    reader = graph.sole_reader(var)
    add = graph.call(reader, "add") if reader is not None else None
    if add is not None and _same_shape(*add.args):
        other = [a for a in add.args if not graph.root(a).same_as(graph.root(var))]
        if len(other) == 1 and graph.weight(other[0]) is None:
            out, residual = reader, other[0]
            spec = replace(spec, residual=True)
    return Linear(spec, counts, theta, weight, scale, bias, residual, out, str(attrs["name"]))


def _stored_bits(bits: int) -> int:
    """The least of 2, 4 and 8 that holds a weight."""
    return next(width for width in (2, 4, 8) if bits <= width)


def _same_shape(a: Any, b: Any) -> bool:
    return [str(d) for d in shape_of(a, "add")] == [str(d) for d in shape_of(b, "add")]


# Kernels only ask whether two byte products fit 16 bits, so that levels need not multiply kernels.
NARROW_LEVELS = 64


def _levels(graph: Graph, counts: Any) -> int:
    """Levels of the encoder that made the counts, rounded up; the dtype's largest where unknown."""
    item = graph.item(counts)
    encode = graph.call(item[0], "sdc.spike_encode") if item else None
    if encode is not None and attributes(encode)["levels"] <= NARROW_LEVELS:
        return NARROW_LEVELS
    return 127 if dtype_of(counts) == "int8" else 255


def encoder_of(call: Any) -> Encoder:
    """The attributes of a ``sdc.spike_encode``."""
    attrs, signed = attributes(call), bool(attributes(call)["signed"])
    return Encoder(
        count_dtype(attrs["levels"], signed),
        attrs["group"],
        signed,
        zoned=attrs["dead_zone"] > 0,
        floored=attrs["floor"] > 0,
    )


def limits_of(call: Any) -> Limits:
    """The numbers of a ``sdc.spike_encode``: levels, clip ratio, dead zone, floor."""
    attrs = attributes(call)
    return attrs["levels"], attrs["clip_ratio"], attrs["dead_zone"], attrs["floor"]


def match_encode(graph: Graph, var: Any) -> Encode | None:
    """A spike_encode with whatever only it reads, as far as one kernel can take it."""
    call = graph.call(var, "sdc.spike_encode")
    if call is None:
        return None
    chain = Chain(graph, call.args[0])
    signs, block = chain.hadamard()
    width = int(shape_of(call.args[0], "lower")[-1])
    scale = chain.scale(width)
    gain, shift, norm, epsilon = chain.norm()
    gate = "" if norm else chain.gate()
    tensors: list[Any] = []
    streams = tuple(stream_of(graph, source, width, tensors) for source in chain.sources)
    spec = EncodeSpec(width, encoder_of(call), streams, gate, norm, epsilon, scale is not None, block)
    return Encode(spec, tuple(tensors), gain, shift, scale, signs, limits_of(call), var)


def stream_of(graph: Graph, source: Any, width: int, tensors: list[Any]) -> Stream:
    """Where a row's channels lie; adds their tensor to ``tensors`` where it is new."""
    tensor, offset = split_item(graph, source, width)
    if not any(t.same_as(tensor) for t in tensors):
        tensors.append(tensor)
    at = next(i for i, t in enumerate(tensors) if t.same_as(tensor))
    whole = tensor.same_as(graph.root(source))
    return Stream(at, width if whole else int(shape_of(tensor, "row")[-1]), offset)


def split_item(graph: Graph, var: Any, width: int) -> tuple[Any, int]:
    """(tensor, channel offset): the whole row where ``var`` is a piece of ``width`` channels of a split."""
    root = graph.root(var)
    item = graph.item(root)
    split = graph.call(item[0], "split") if item else None
    if item is None or split is None or int(shape_of(root, "split")[-1]) != width:
        return root, 0
    shape, attrs = shape_of(split.args[0], "split"), attributes(split)
    if attrs["axis"] % len(shape) != len(shape) - 1:
        return root, 0
    cuts = attrs["indices_or_sections"]
    if isinstance(cuts, int):
        cuts = [int(shape[-1]) // cuts * i for i in range(1, cuts)]
    return graph.root(split.args[0]), [0, *cuts][item[1]]


class Chain:
    """Walks backwards from an encoder, taking over operations that nothing else reads."""

    def __init__(self, graph: Graph, start: Any) -> None:
        self.graph = graph
        self.current = graph.root(start)
        self.sources: list[Any] = [start]

    def take(self, *names: str) -> Any:
        """The call that computes the current tensor, if one of ``names`` and read only here."""
        call = self.graph.call(self.current, *names)
        return call if call is not None and self.graph.sole_reader(self.current) is not None else None

    def move(self, *sources: Any) -> None:
        self.sources = list(sources)
        self.current = self.graph.root(sources[0])

    def hadamard(self) -> tuple[Any, int]:
        call = self.take("sdc.hadamard")
        if call is None or self.graph.weight(call.args[1]) is None:
            return None, 0
        self.move(call.args[0])
        return call.args[1], int(attributes(call)["block"])

    def scale(self, width: int) -> Any:
        call = self.take("multiply")
        for x, vector in ((0, 1), (1, 0)) if call is not None else ():
            if self.graph.weight(call.args[vector]) is not None and shape_of(call.args[vector], "") == [
                width
            ]:
                self.move(call.args[x])
                return call.args[vector]
        return None

    def norm(self) -> tuple[Any, Any, str, float]:
        """(gain, shift, kind, epsilon) of a norm over the last axis with stored gains."""
        call = self.take("nn.rms_norm", "nn.layer_norm")
        if call is None:
            return None, None, "", 0.0
        attrs, kind = attributes(call), "rms" if len(call.args) == 2 else "layer"
        rank = len(shape_of(call.args[0], "norm"))
        if [a % rank for a in attrs["axes"]] != [rank - 1]:
            return None, None, "", 0.0
        if any(self.graph.weight(g) is None for g in call.args[1:]):
            return None, None, "", 0.0
        self.move(call.args[0])
        return call.args[1], call.args[2] if kind == "layer" else None, kind, float(attrs["epsilon"])

    def gate(self) -> str:
        """silu(g) * u, in either order."""
        call = self.take("multiply")
        for gated, up in ((0, 1), (1, 0)) if call is not None else ():
            silu = self.graph.call(call.args[gated], "nn.silu")
            if silu is None or self.graph.sole_reader(call.args[gated]) is None:
                continue
            if _same_shape(*call.args):
                self.move(silu.args[0], call.args[up])
                return "silu"
        return ""
