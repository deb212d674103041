"""Spiking attention: the cores of a KV head keep its cache and serve the query heads that share it.

Both products are event loops over the cache. Keys lie transposed (row d: channel d of all tokens), so a spike
of query channel d adds to the scores of all tokens; values lie by token, so a spike of the probability of
token j adds value row j. A cache that one core cannot hold is cut along its channels: the sums of keys' parts
are added as integers, those of values' parts stand side by side, and so the cut changes no bit.
One more core of the head turns sums into probabilities and sends their trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sdc.errors import TargetError
from sdc.ir.coding import time_steps
from sdc.ir.model import Coding
from sdc.targets.neuro.codegen.builder import CoreBuilder, ProgramBuilder
from sdc.targets.neuro.codegen.linear import Result
from sdc.targets.neuro.codegen.values import Array
from sdc.targets.neuro.isa.fields import Length, Ref

__all__ = ["AttentionLayer", "emit_attention"]


@dataclass(frozen=True)
class AttentionLayer:
    """An attention over counts, one token at a time.

    Attributes:
        q, k, v: Counts and thresholds: q [1, 1, heads, d] and [1, 1, heads, 1], k and v likewise of kv_heads.
        levels, coding: Of the probabilities.
        synapse_bytes: Cache that one core holds.
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
    synapse_bytes: int

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.q[0].shape[2]

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.k[0].shape[2]

    @property
    def share(self) -> int:
        """Query heads of one KV head."""
        return self.heads // self.kv_heads

    @property
    def width(self) -> int:
        """Channels of one head's value."""
        return self.v[0].shape[3]

    def parts(self, channels: int) -> list[tuple[int, int]]:
        """Ranges of channels, the cache of each of which fits a core."""
        fitting = max(1, self.synapse_bytes // self.max_seq)
        return list(pairwise([*range(0, channels, fitting), channels]))

    @property
    def key_parts(self) -> list[tuple[int, int]]:
        """Ranges of a key's channels, one core each."""
        return self.parts(self.k[0].shape[3])

    @property
    def value_parts(self) -> list[tuple[int, int]]:
        """Ranges of a value's channels, one core each."""
        return self.parts(self.width)

    @property
    def cores(self) -> int:
        """Cores of one KV head."""
        return 1 + len(self.key_parts) + len(self.value_parts)


@dataclass(frozen=True)
class _Head:
    """The cores and tags of one KV head; cores of parts in the order of their channels."""

    number: int
    main: CoreBuilder
    keys: tuple[CoreBuilder, ...]
    values: tuple[CoreBuilder, ...]
    row: tuple[int, ...]  # tag of the new key (value) at each of these
    query: tuple[int, ...]  # tag of the query's train at each key part
    sums: tuple[int, ...]  # tag of each key part's sums
    query_theta: int
    key_theta: int
    value_theta: int
    probability: int
    mixed: int


def emit_attention(
    program: ProgramBuilder, source: CoreBuilder, layer: AttentionLayer, cores: Sequence[Sequence[int]]
) -> Result:
    """Emits the attention on the core of its inputs and on its own; the outputs [heads, dv] come back.

    Raises:
        TargetError: Counts do not fit 8 bits, or are none.
    """
    for what, counts in (("keys", layer.k[0]), ("values", layer.v[0])):
        if counts.train is None or counts.train[0] > 127:
            raise TargetError(f"{layer.name}: {what} must be spike counts of at most 127 levels")
    if layer.q[0].train is None:
        raise TargetError(f"{layer.name}: queries must be spike counts")
    result = program.tag(source.core)
    source.note(f"{layer.name}: keys, values and queries to {layer.kv_heads} heads of {layer.cores} cores")
    for number, own in enumerate(cores):
        head = _head(program, layer, number, own)
        _send_head(source, layer, head)
        for part, place in enumerate(layer.key_parts):
            _emit_keys(layer, head, part, place)
        _emit_main(layer, head, source.core, result)
        for part, place in enumerate(layer.value_parts):
            _emit_values(layer, head, part, place)
    return Result(result, layer.heads * layer.width, layer.kv_heads)


def _head(program: ProgramBuilder, layer: AttentionLayer, number: int, cores: Sequence[int]) -> _Head:
    name, split = f"{layer.name} kv head {number}", 1 + len(layer.key_parts)
    main = program.core(cores[0], name)
    keys = tuple(program.core(core, f"{name}, keys") for core in cores[1:split])
    values = tuple(program.core(core, f"{name}, values") for core in cores[split:])
    return _Head(
        number,
        main,
        keys,
        values,
        row=tuple(program.tag(core.core) for core in (*keys, *values)),
        query=tuple(program.tag(core.core) for core in keys),
        sums=tuple(program.tag(main.core) for _ in keys),
        query_theta=program.tag(main.core),
        key_theta=program.tag(main.core),
        value_theta=program.tag(main.core),
        probability=program.tag(*(core.core for core in values)),
        mixed=program.tag(main.core),
    )


def _send_head(source: CoreBuilder, layer: AttentionLayer, head: _Head) -> None:
    tags = iter(head.row)
    for (counts, theta), cores, parts, theta_tag in (
        (layer.k, head.keys, layer.key_parts, head.key_theta),
        (layer.v, head.values, layer.value_parts, head.value_theta),
    ):
        base = head.number * counts.shape[3]
        for core, (first, last) in zip(cores, parts, strict=True):
            place, width = counts.part(base + first, last - first), last - first
            source.emit("sendw", place, width, source.route(next(tags), core.core), 0)
        source.emit("sendw", theta.part(head.number, 1), 1, source.route(theta_tag, head.main.core), 0)
    counts, theta = layer.q
    levels, coding = counts.train or (0, "ternary")
    for query in range(head.number * layer.share, (head.number + 1) * layer.share):
        source.emit("loop", time_steps(coding, levels))
        for core, tag, (first, last) in zip(head.keys, head.query, layer.key_parts, strict=True):
            place = counts.part(query * counts.shape[3] + first, last - first)
            source.emit("send", place, last - first, coding, source.route(tag, core.core), 0)
        source.emit("endl")
        source.emit("sendw", theta.part(query, 1), 1, source.route(head.query_theta, head.main.core), 0)


def _emit_keys(layer: AttentionLayer, head: _Head, part: int, place: tuple[int, int]) -> None:
    """Appends the token's key as a column, and adds up the scores of each query."""
    core, width, size = head.keys[part], place[1] - place[0], layer.max_seq
    levels, coding = layer.q[0].train or (0, "ternary")
    cache, row, sums = core.bytes(width * size), core.words(width), core.words(size)
    seen = Length(size, keys=True)
    core.describe(new_key=row, scores=sums)
    core.note(f"{layer.name}: append key channels {place[0]}..{place[1] - 1} to the cache of {size} tokens")
    core.emit("recvw", row, width, head.row[part], 1)
    core.emit("kvcol", cache, row, width, size)
    core.emit("slot", 0, cache, size, seen, width, "8", sums)
    for query in range(layer.share):
        core.note(f"{layer.name}: query head {head.number * layer.share + query} meets the keys")
        core.emit("fill", sums, 0.0, seen)
        core.emit("loop", time_steps(coding, levels))
        core.emit("accum", head.query[part], 0, coding, 1)
        core.emit("endl")
        core.emit("sendw", sums, seen, core.route(head.sums[part], head.main.core), 0)
    core.release(row.address, width)
    core.release(sums.address, size)


def _emit_values(layer: AttentionLayer, head: _Head, part: int, place: tuple[int, int]) -> None:
    """Appends the token's value as a row, and mixes the values by the probabilities of each query."""
    core, width, size = head.values[part], place[1] - place[0], layer.max_seq
    cache, row, mixed = core.bytes(width * size), core.words(width), core.words(width)
    core.describe(new_value=row, mixture=mixed)
    core.note(f"{layer.name}: append value channels {place[0]}..{place[1] - 1} to the cache of {size} tokens")
    core.emit("recvw", row, width, head.row[len(head.keys) + part], 1)
    core.emit("kvrow", cache, row, width, width)
    core.emit("slot", 0, cache, width, width, size, "8", mixed)
    for query in range(layer.share):
        core.note(f"{layer.name}: probabilities of query head {head.number * layer.share + query}")
        core.emit("fill", mixed, 0.0, width)
        core.emit("loop", time_steps(layer.coding, layer.levels))
        core.emit("accum", head.probability, 0, layer.coding, 1)
        core.emit("endl")
        core.emit("sendw", mixed, width, core.route(head.mixed, head.main.core), place[0])
    core.release(row.address, width)
    core.release(mixed.address, width)


def _emit_main(layer: AttentionLayer, head: _Head, back: int, result: int) -> None:
    core, room = head.main, _Room(head.main, layer)
    core.describe(scores=room.scores, weights=room.weights, mixture=room.mixed, outputs=room.out)
    core.note(f"{layer.name}: thresholds of the token's key and value")
    for tag, thetas in ((head.key_theta, room.key_thetas), (head.value_theta, room.value_thetas)):
        core.emit("recvw", room.scalar, 1, tag, 1)
        core.emit("kvword", thetas, room.scalar)
    for query in range(layer.share):
        core.note(f"{layer.name}: query head {head.number * layer.share + query}")
        _emit_scores(core, layer, head, room)
        _emit_probabilities(core, layer, head, room)
        core.emit("recvw", room.mixed, layer.width, head.mixed, len(head.values))
        out = Ref(room.out.address + query * layer.width)
        core.emit("vcvt", out, room.mixed, layer.width)
        core.emit("vmuls", out, out, room.scalar, layer.width)
    count = layer.share * layer.width
    core.emit("sendw", room.out, count, core.route(result, back), head.number * count)
    room.release()


class _Room:
    """Memory of a KV head's main core; its query heads use it in turn."""

    def __init__(self, core: CoreBuilder, layer: AttentionLayer) -> None:
        self.core, self.layer, size = core, layer, layer.max_seq
        self.key_thetas, self.value_thetas = core.bytes(4 * size), core.bytes(4 * size)
        self.scores, self.weights = core.words(size), core.words(size)
        self.mixed, self.out = core.words(layer.width), core.words(layer.share * layer.width)
        self.scalar, self.total = core.words(1), core.words(1)
        self.scale = core.constant(np.array([layer.scale], np.float32))
        self.cap = core.constant(np.array([layer.softcap], np.float32))

    def release(self) -> None:
        """Gives back what does not live on: another layer on this core may use it."""
        size, width = self.layer.max_seq, self.layer.width
        counts = (size, size, width, self.layer.share * width, 1, 1)
        places = (self.scores, self.weights, self.mixed, self.out, self.scalar, self.total)
        for place, count in zip(places, counts, strict=True):
            self.core.release(place.address, count)


def _emit_scores(core: CoreBuilder, layer: AttentionLayer, head: _Head, room: _Room) -> None:
    """score = (scale * q_theta) * k_theta * dot, softcapped."""
    seen = Length(layer.max_seq, keys=True)
    core.emit("recvw", room.scores, seen, head.sums[0], 1)
    for tag in head.sums[1:]:
        core.emit("recvw", room.weights, seen, tag, 1)
        core.emit("vaddi", room.scores, room.scores, room.weights, seen)
    core.emit("recvw", room.scalar, 1, head.query_theta, 1)
    core.emit("vmul", room.scalar, room.scale, room.scalar, 1)
    core.emit("ldw", room.weights, room.key_thetas, seen)
    core.emit("vmuls", room.weights, room.weights, room.scalar, seen)
    core.emit("vcvt", room.scores, room.scores, seen)
    core.emit("vmul", room.scores, room.weights, room.scores, seen)
    if layer.softcap:
        core.emit("vdivs", room.scores, room.scores, room.cap, seen)
        core.emit("vtanh", room.scores, room.scores, seen)
        core.emit("vmuls", room.scores, room.scores, room.cap, seen)


def _emit_probabilities(core: CoreBuilder, layer: AttentionLayer, head: _Head, room: _Room) -> None:
    """e = exp(score - max), w = e * v_theta, trains of w; ``scalar`` becomes theta_p / sum e."""
    seen = Length(layer.max_seq, keys=True)
    core.emit("vmax", room.scalar, room.scores, seen)
    core.emit("vsubs", room.scores, room.scores, room.scalar, seen)
    core.emit("vexp", room.scores, room.scores, seen)
    core.emit("vsum", room.total, room.scores, seen)
    core.emit("ldw", room.weights, room.value_thetas, seen)
    core.emit("vmul", room.weights, room.scores, room.weights, seen)
    core.emit("theta", room.scalar, room.weights, seen, 0, float(np.float32(1 / layer.levels)))
    core.emit("count", room.scores, room.weights, room.scalar, seen, 0, layer.levels, "u")
    core.emit("vdiv", room.scalar, room.scalar, room.total, 1)
    core.emit("loop", time_steps(layer.coding, layer.levels))
    route = core.route(head.probability, *(value.core for value in head.values))
    core.emit("send", room.scores, seen, layer.coding, route, 0)
    core.emit("endl")
