"""Chains of operations that one kernel computes.

Matching is on the dialect's own operations. A match names the tensors that it reads, and is emitted where its
last operation stood; what it made superfluous is not needed by anything any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from sdc.ir.ops import attributes, count_dtype, dtype_of, shape_of
from sdc.targets.fused.graph import Graph
from sdc.targets.fused.specs import (
    AttentionSpec,
    Encoder,
    EncodeSpec,
    HeadSpec,
    HeadsSpec,
    LinearSpec,
    Rotary,
    Stream,
)

__all__ = ["Attention", "Encode", "Limits", "Linear", "match_attention", "match_encode", "match_linear"]


Limits = tuple[int, float, float, float]


@dataclass(frozen=True)
class Linear:
    """spike_accumulate -> readout (-> add): ``out`` is the last variable."""

    spec: LinearSpec
    counts: Any
    theta: Any
    weight: Any
    scale: Any
    bias: Any
    residual: Any
    out: Any


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


@dataclass(frozen=True)
class Attention:
    """Encoders of q, k, v -> kv_append -> spike_attention (-> hadamard -> spike_encode)."""

    heads: HeadsSpec
    sources: tuple[Any, ...]
    position: Any
    tables: tuple[Any, ...]
    signs: tuple[Any, ...]
    limits: tuple[Limits, ...]
    states: tuple[Any, ...]
    spec: AttentionSpec
    out: Any
    encode: Encode | None


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
        bits=4 if attrs["weight_bits"] <= 4 and dtype == "int8" else 8,
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
    return Linear(spec, counts, theta, weight, scale, bias, residual, out)


def _same_shape(a: Any, b: Any) -> bool:
    return [str(d) for d in shape_of(a, "add")] == [str(d) for d in shape_of(b, "add")]


# Kernels only ask whether two byte products fit 16 bits, so that levels need not multiply kernels.
_NARROW = 64


def _levels(graph: Graph, counts: Any) -> int:
    """Levels of the encoder that made the counts, rounded up; the dtype's largest where unknown."""
    item = graph.item(counts)
    encode = graph.call(item[0], "sdc.spike_encode") if item else None
    if encode is not None and attributes(encode)["levels"] <= _NARROW:
        return _NARROW
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
    chain = _Chain(graph, call.args[0])
    signs, block = chain.hadamard()
    width = int(shape_of(call.args[0], "lower")[-1])
    scale = chain.scale(width)
    gain, shift, norm, epsilon = chain.norm()
    gate = "" if norm else chain.gate()
    tensors: list[Any] = []
    streams = tuple(_stream(graph, source, width, tensors) for source in chain.sources)
    spec = EncodeSpec(width, encoder_of(call), streams, gate, norm, epsilon, scale is not None, block)
    return Encode(spec, tuple(tensors), gain, shift, scale, signs, limits_of(call), var)


def _stream(graph: Graph, source: Any, width: int, tensors: list[Any]) -> Stream:
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


class _Chain:
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


def match_attention(graph: Graph, var: Any) -> Attention | None:
    """Causal attention over caches that only it reads, with per-head thresholds and 8-bit counts."""
    call = graph.call(var, "sdc.spike_attention")
    if call is None or len(call.args) != 7 or not attributes(call)["causal"]:
        return None
    position = call.args[6]
    caches = [c for i in range(2, 6) if (c := _Append.find(graph, call.args[i], position)) is not None]
    if len(caches) != 4 or attributes(call)["levels"] > 255:
        return None
    pairs = [(call.args[0], call.args[1]), *((caches[i].rows, caches[i + 1].rows) for i in (0, 2))]
    parts = [p for pair in pairs if (p := _Part.find(graph, *pair, position)) is not None]
    if len(parts) != 3 or not _one_rotary(parts):
        return None
    slots = int(shape_of(call.args[2], "lower")[2])
    encode = _output_encoder(graph, var, parts[2].width)
    tensors: list[Any] = []
    heads = tuple(p.spec(graph, role, tensors) for role, p in zip(_ROLES, parts, strict=True))
    turned = next((p for p in parts if p.tables), None)
    return Attention(
        HeadsSpec(heads, turned.rotary() if turned else None, slots),
        tuple(tensors),
        position,
        turned.tables if turned else (),
        tuple(p.signs for p in parts),
        tuple(p.limits for p in parts),
        tuple(c.state for c in caches),
        _attention_spec(attributes(call), parts, slots, encode),
        var if encode is None else encode.out,
        encode,
    )


_ROLES: tuple[Literal["query", "key", "value"], ...] = ("query", "key", "value")


def _one_rotary(parts: list[_Part]) -> bool:
    """Whether the heads that turn all turn by the same tables."""
    turned = [p for p in parts if p.tables]
    same = all(a.same_as(b) for p in turned for a, b in zip(p.tables, turned[0].tables, strict=True))
    return same and len({p.interleaved for p in turned}) <= 1


def _attention_spec(
    attrs: dict[str, Any], parts: list[_Part], slots: int, encode: Encode | None
) -> AttentionSpec:
    query, key, value = parts
    return AttentionSpec(
        query.heads,
        key.heads,
        query.width,
        value.width,
        slots,
        attrs["scale"],
        attrs["levels"],
        _NARROW if query.limits[0] <= _NARROW else 127,
        _NARROW if value.limits[0] <= _NARROW else 127,
        attrs["window"],
        attrs["softcap"],
        None if encode is None else encode.spec.encoder,
        0 if encode is None else encode.spec.block,
    )


def _output_encoder(graph: Graph, var: Any, width: int) -> Encode | None:
    """The encoder of the attention's output, if each head can be encoded by itself."""
    reader = graph.sole_reader(var)
    if graph.call(reader, "sdc.hadamard") is not None:
        reader = graph.sole_reader(reader)
    encode = match_encode(graph, reader) if reader is not None else None
    if encode is None or len(encode.sources) != 1 or not encode.sources[0].same_as(graph.root(var)):
        return None
    spec = encode.spec
    plain = not (spec.gate or spec.norm or spec.scaled)
    fits = width % spec.encoder.group == 0 and (not spec.block or width % spec.block == 0)
    return encode if plain and fits and spec.width % width == 0 else None


@dataclass(frozen=True)
class _Append:
    """kv_append of ``rows`` to a ``state`` that is an input of the function."""

    state: Any
    rows: Any

    @staticmethod
    def find(graph: Graph, var: Any, position: Any) -> _Append | None:
        call = graph.call(var, "sdc.kv_append")
        readers = graph.readers.get(graph.root(var), [])
        if call is None or len(readers) != 1 or not call.args[2].same_as(position):
            return None
        state = call.args[0]
        is_input = any(state.same_as(v) for v in graph.inputs)
        return _Append(state, call.args[1]) if is_input else None


@dataclass(frozen=True)
class _Part:
    """One of q, k, v: rotary -> hadamard -> spike_encode per head, from a piece of a row."""

    source: Any
    heads: int
    width: int
    encoder: Encoder
    limits: Limits
    tables: tuple[Any, ...]
    interleaved: bool
    signs: Any
    block: int

    @staticmethod
    def find(graph: Graph, counts: Any, theta: Any, position: Any) -> _Part | None:
        items = graph.item(counts), graph.item(theta)
        if items[0] is None or items[1] is None or not items[0][0].same_as(items[1][0]):
            return None
        encoded = items[0][0]
        call = graph.call(encoded, "sdc.spike_encode")
        if call is None or dtype_of(counts) != "int8":
            return None
        x = call.args[0]
        shape, encoder = shape_of(x, "lower"), encoder_of(call)
        if len(shape) != 4 or encoder.group != int(shape[3]) or encoder.floored:
            return None
        if any(len(graph.readers.get(graph.root(v), [])) != 1 for v in (counts, theta)):
            return None
        heads, width = int(shape[2]), int(shape[3])
        chain = _Chain(graph, x)
        signs, block = chain.hadamard()
        tables, interleaved = chain_rotary(chain, position)
        return _Part(chain.current, heads, width, encoder, limits_of(call), tables, interleaved, signs, block)

    def rotary(self) -> Rotary:
        """The tables' sizes (of a part that turns)."""
        length, half = (int(d) for d in shape_of(self.tables[0], "rotary"))
        return Rotary(length, half, self.interleaved)

    def spec(self, graph: Graph, role: Literal["query", "key", "value"], tensors: list[Any]) -> HeadSpec:
        """The kernel's description; adds the source to ``tensors`` where it is new."""
        stream = _stream(graph, self.source, self.heads * self.width, tensors)
        return HeadSpec(role, stream, self.heads, self.width, self.encoder, bool(self.tables), self.block)


def chain_rotary(chain: _Chain, position: Any) -> tuple[tuple[Any, ...], bool]:
    """Takes over a rotary embedding at the same position with stored tables."""
    call = chain.take("sdc.rotary")
    if call is None or not call.args[3].same_as(position):
        return (), False
    if any(chain.graph.weight(t) is None for t in call.args[1:3]):
        return (), False
    chain.move(call.args[0])
    return (call.args[1], call.args[2]), bool(attributes(call)["interleaved"])
