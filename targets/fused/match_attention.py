"""Attention over integer caches, as two kernels compute it: one of the heads' encoders, one of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sdc.ir.ops import attributes, dtype_of, shape_of
from sdc.targets.fused.graph import Graph
from sdc.targets.fused.match import (
    NARROW_LEVELS,
    Chain,
    Encode,
    Limits,
    encoder_of,
    limits_of,
    match_encode,
    stream_of,
)
from sdc.targets.fused.specs import AttentionSpec, Encoder, HeadSpec, HeadsSpec, Rotary

__all__ = ["Attention", "match_attention"]


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
        NARROW_LEVELS if query.limits[0] <= NARROW_LEVELS else 127,
        NARROW_LEVELS if value.limits[0] <= NARROW_LEVELS else 127,
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
        chain = Chain(graph, x)
        signs, block = chain.hadamard()
        tables, interleaved = _rotary_of(chain, position)
        return _Part(chain.current, heads, width, encoder, limits_of(call), tables, interleaved, signs, block)

    def rotary(self) -> Rotary:
        """The tables' sizes (of a part that turns)."""
        length, half = (int(d) for d in shape_of(self.tables[0], "rotary"))
        return Rotary(length, half, self.interleaved)

    def spec(self, graph: Graph, role: Literal["query", "key", "value"], tensors: list[Any]) -> HeadSpec:
        """The kernel's description; adds the source to ``tensors`` where it is new."""
        stream = stream_of(graph, self.source, self.heads * self.width, tensors)
        return HeadSpec(role, stream, self.heads, self.width, self.encoder, bool(self.tables), self.block)


def _rotary_of(chain: Chain, position: Any) -> tuple[tuple[Any, ...], bool]:
    """Takes over a rotary embedding at the same position with stored tables."""
    call = chain.take("sdc.rotary")
    if call is None or not call.args[3].same_as(position):
        return (), False
    if any(chain.graph.weight(t) is None for t in call.args[1:3]):
        return (), False
    chain.move(call.args[0])
    return (call.args[1], call.args[2]), bool(attributes(call)["interleaved"])
