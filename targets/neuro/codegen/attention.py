"""Spiking attention: one core per KV head keeps its cache and serves the query heads that share it.

Both products are event loops over the cache. Keys lie transposed (row d: channel d of all tokens), so a spike
of query channel d adds to the scores of all tokens; values lie by token, so a spike of the probability of
token j adds value row j. The core sends the probabilities' trains to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdc.errors import TargetError
from sdc.ir.coding import time_steps
from sdc.ir.model import Coding
from sdc.targets.neuro.codegen.builder import CoreBuilder, ProgramBuilder
from sdc.targets.neuro.codegen.values import Array
from sdc.targets.neuro.isa.fields import Length, Ref

__all__ = ["AttentionLayer", "emit_attention"]

_KEYS, _VALUES = 0, 1  # synapse slots


@dataclass(frozen=True)
class AttentionLayer:
    """An attention over counts, one token at a time.

    Attributes:
        q, k, v: Counts and thresholds: q [1, 1, heads, d] and [1, 1, heads, 1], k and v likewise of kv_heads.
        levels, coding: Of the probabilities.
    """

    name: str
    q: tuple[Array, Array]
    k: tuple[Array, Array]
    v: tuple[Array, Array]
    max_seq: int
    scale: float
    softcap: float
    levels: int
    coding: Coding

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.q[0].shape[2]

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.k[0].shape[2]


@dataclass(frozen=True)
class _Tags:
    result: int
    keys: int
    key_theta: int
    values: int
    value_theta: int
    query: int
    query_theta: int
    probability: int


def emit_attention(
    program: ProgramBuilder, hub: CoreBuilder, layer: AttentionLayer, cores: Sequence[int]
) -> Array:
    """Emits the attention on the hub and its cores; returns the outputs [1, 1, heads, dv].

    Raises:
        TargetError: The cache does not fit a vector length, or counts do not fit 8 bits.
    """
    for what, counts in (("keys", layer.k[0]), ("values", layer.v[0])):
        if counts.train is None or counts.train[0] > 127:
            raise TargetError(f"{layer.name}: {what} must be spike counts of at most 127 levels")
    if layer.q[0].train is None:
        raise TargetError(f"{layer.name}: queries must be spike counts")
    share, width = layer.heads // layer.kv_heads, layer.v[0].shape[3]
    result = program.tag()
    hub.note(f"{layer.name}: keys, values and queries to {layer.kv_heads} cores")
    for head, number in enumerate(cores):
        tags = _Tags(result, *(program.tag() for _ in range(7)))
        _send_head(hub, layer, head, number, tags)
        core = program.core(number, f"{layer.name} kv head {head}")
        _emit_core(core, hub.core, layer, tags, head * share * width)
    out = hub.words(layer.heads * width)
    hub.emit("recvw", out, layer.heads * width, result, layer.kv_heads)
    return Array(out, (1, 1, layer.heads, width))


def _send_head(hub: CoreBuilder, layer: AttentionLayer, head: int, core: int, tags: _Tags) -> None:
    for (counts, theta), tag, theta_tag in (
        (layer.k, tags.keys, tags.key_theta),
        (layer.v, tags.values, tags.value_theta),
    ):
        width = counts.shape[3]
        hub.emit("sendw", counts.part(head * width, width), width, hub.route(tag, core), 0)
        hub.emit("sendw", theta.part(head, 1), 1, hub.route(theta_tag, core), 0)
    counts, theta = layer.q
    levels, coding = counts.train or (0, "ternary")
    share, width = layer.heads // layer.kv_heads, counts.shape[3]
    for query in range(head * share, (head + 1) * share):
        hub.emit("sendw", theta.part(query, 1), 1, hub.route(tags.query_theta, core), 0)
        hub.emit("loop", time_steps(coding, levels))
        hub.emit("send", counts.part(query * width, width), width, coding, hub.route(tags.query, core), 0)
        hub.emit("endl")


def _emit_core(core: CoreBuilder, hub: int, layer: AttentionLayer, tags: _Tags, index: int) -> None:
    room = _Room(core, layer)
    _emit_append(core, layer, tags, room)
    share, width = layer.heads // layer.kv_heads, layer.v[0].shape[3]
    out = core.words(share * width)
    for query in range(share):
        core.note(f"{layer.name}: query head {index // width + query}")
        _emit_scores(core, layer, tags, room)
        _emit_probabilities(core, layer, room)
        _emit_mix(core, layer, tags, room, Ref(out.address + query * width))
    core.emit("sendw", out, share * width, core.route(tags.result, hub), index)


class _Room:
    """Memory of one KV head: its cache, and vectors that its query heads use in turn."""

    def __init__(self, core: CoreBuilder, layer: AttentionLayer) -> None:
        d, dv, size = layer.k[0].shape[3], layer.v[0].shape[3], layer.max_seq
        self.keys, self.values = core.bytes(d * size), core.bytes(dv * size)
        self.key_thetas, self.value_thetas = core.words(size), core.words(size)
        self.row, self.theta = core.words(max(d, dv)), core.words(1)
        self.dots, self.mixed = core.words(size), core.words(dv)
        self.scores, self.weights, self.counts = (core.words(size) for _ in range(3))
        self.query_theta, self.scalar, self.total = (core.words(1) for _ in range(3))
        self.scale = core.constant(np.array([layer.scale], np.float32))
        self.cap = core.constant(np.array([layer.softcap], np.float32))


def _emit_append(core: CoreBuilder, layer: AttentionLayer, tags: _Tags, room: _Room) -> None:
    """Appends the token's key as a column and its value as a row, and says where both are."""
    d, dv, size = layer.k[0].shape[3], layer.v[0].shape[3], layer.max_seq
    core.note(f"{layer.name}: append to the cache of {size} tokens")
    core.emit("recvw", room.row, d, tags.keys, 1)
    core.emit("kvcol", room.keys, room.row, d, size)
    core.emit("recvw", room.theta, 1, tags.key_theta, 1)
    core.emit("kvword", room.key_thetas, room.theta)
    core.emit("recvw", room.row, dv, tags.values, 1)
    core.emit("kvrow", room.values, room.row, dv, dv)
    core.emit("recvw", room.theta, 1, tags.value_theta, 1)
    core.emit("kvword", room.value_thetas, room.theta)
    core.emit("slot", _KEYS, room.keys, size, Length(size, keys=True), d, "8", room.dots)
    core.emit("slot", _VALUES, room.values, dv, dv, size, "8", room.mixed)


def _emit_scores(core: CoreBuilder, layer: AttentionLayer, tags: _Tags, room: _Room) -> None:
    """score = (scale * q_theta) * k_theta * dot, softcapped."""
    seen = Length(layer.max_seq, keys=True)
    levels, coding = layer.q[0].train or (0, "ternary")
    core.emit("recvw", room.query_theta, 1, tags.query_theta, 1)
    core.emit("fill", room.dots, 0.0, seen)
    core.emit("loop", time_steps(coding, levels))
    core.emit("accum", tags.query, _KEYS, coding, 1)
    core.emit("endl")
    core.emit("vmul", room.scalar, room.scale, room.query_theta, 1)
    core.emit("vmuls", room.weights, room.key_thetas, room.scalar, seen)
    core.emit("vcvt", room.scores, room.dots, seen)
    core.emit("vmul", room.scores, room.weights, room.scores, seen)
    if layer.softcap:
        core.emit("vdivs", room.scores, room.scores, room.cap, seen)
        core.emit("vtanh", room.scores, room.scores, seen)
        core.emit("vmuls", room.scores, room.scores, room.cap, seen)


def _emit_probabilities(core: CoreBuilder, layer: AttentionLayer, room: _Room) -> None:
    """e = exp(score - max), w = e * v_theta, counts of w; ``scalar`` becomes theta_p / sum e."""
    seen = Length(layer.max_seq, keys=True)
    core.emit("vmax", room.scalar, room.scores, seen)
    core.emit("vsubs", room.scores, room.scores, room.scalar, seen)
    core.emit("vexp", room.scores, room.scores, seen)
    core.emit("vsum", room.total, room.scores, seen)
    core.emit("vmul", room.weights, room.scores, room.value_thetas, seen)
    core.emit("theta", room.scalar, room.weights, seen, 0, float(np.float32(1 / layer.levels)))
    core.emit("count", room.counts, room.weights, room.scalar, seen, 0, layer.levels, "u")
    core.emit("vdiv", room.scalar, room.scalar, room.total, 1)


def _emit_mix(core: CoreBuilder, layer: AttentionLayer, tags: _Tags, room: _Room, out: Ref) -> None:
    """out = (theta_p / sum e) * sum over tokens of count * value row."""
    width = layer.v[0].shape[3]
    core.emit("fill", room.mixed, 0.0, width)
    core.emit("loop", time_steps(layer.coding, layer.levels))
    route = core.route(tags.probability, core.core)
    core.emit("send", room.counts, Length(layer.max_seq, keys=True), layer.coding, route, 0)
    core.emit("accum", tags.probability, _VALUES, layer.coding, 1)
    core.emit("endl")
    core.emit("vcvt", out, room.mixed, width)
    core.emit("vmuls", out, out, room.scalar, width)
