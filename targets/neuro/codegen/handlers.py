"""What the vector cores do for each operation of the module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from sdc.ir.ops.spike_encode import threshold_factor
from sdc.targets.neuro.codegen.attention import AttentionLayer, emit_attention
from sdc.targets.neuro.codegen.linear import Result, Spikes, SynapticLayer, emit_linear
from sdc.targets.neuro.codegen.signature import Probe
from sdc.targets.neuro.codegen.values import Array, Cache, Input, Pending, Position, Value, Weight
from sdc.targets.neuro.codegen.vector import VectorCores

__all__ = ["HANDLERS", "emit_readout"]

RESIDENT_BYTES: Final = 1 << 16  # a larger embedding table stays in external memory


Args = Sequence[Any]
Attrs = dict[str, Any]
Shape = tuple[int, ...]


def _same_words(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    """Another shape of the same words."""
    if isinstance(args[0], Input):  # reaches a core, or does not, when its words are needed
        return Input(args[0].name, shape, args[0].dtype)
    return replace(at.array(args[0]), shape=shape)


def _permute(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x = at.array(args[0])
    axes = attrs.get("axes") or range(len(x.shape))[::-1]
    moved = [int(axis) for axis in axes if x.shape[int(axis)] > 1]
    if moved != sorted(moved):
        raise at.error("a transposition of more than axes of length 1")
    return replace(x, shape=shape)


def _arithmetic(name: str) -> Callable[..., Value]:
    def emit(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
        a, b = at.array(args[0]), at.array(args[1])
        if a.size == 1 and b.size > 1 and name in ("vadd", "vmul"):
            a, b = b, a
        if a.size not in (1, b.size) and b.size != 1:
            raise at.error(f"shapes {list(a.shape)} and {list(b.shape)} do not match word by word")
        if a.size < b.size:
            raise at.error("a scalar cannot stand on the left of a subtraction or division")
        out = at.new(shape)
        at.core.emit(name if a.size == b.size else f"{name}s", out.ref, a.ref, b.ref, out.size)
        return out

    return emit


def _unary(name: str) -> Callable[..., Value]:
    def emit(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
        x, out = at.array(args[0]), at.new(shape)
        at.core.emit(name, out.ref, x.ref, out.size)
        return out

    return emit


def _take(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    table, index = args[0], args[1]
    size = math.prod(index.shape) if isinstance(index, Array | Input) else 0
    if not isinstance(table, Weight) or size != 1 or attrs.get("axis") not in (0, None):
        raise at.error("only rows of a weight table can be looked up, one per token")
    rows, width = table.shape
    if 4 * rows * width > min(RESIDENT_BYTES, at.placement.synapse_bytes):
        return at.look_up(table, index, shape)
    row, out = at.array(index), at.new(shape)
    at.core.emit("gather", out.ref, at.table(table), row.ref, width, rows)
    return out


def _split(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, axis, where = at.array(args[0]), attrs["axis"], attrs["indices_or_sections"]
    axis %= len(x.shape)
    size = x.shape[axis]
    if math.prod(x.shape[:axis]) != 1:
        raise at.error("a split below an axis longer than 1")
    edges = (
        [i * size // where for i in range(1, where)] if isinstance(where, int) else [int(w) for w in where]
    )
    inner, bounds = math.prod(x.shape[axis + 1 :]), [0, *edges, size]
    parts = []
    for first, last in pairwise(bounds):
        part = (*x.shape[:axis], last - first, *x.shape[axis + 1 :])
        parts.append(replace(x, ref=x.part(first * inner, (last - first) * inner), shape=part))
    return tuple(parts)


def _slice(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, axes, begin = at.array(args[0]), args[1], args[2]
    strides = args[4] if len(args) > 4 else (1,) * len(axes)
    cut = [(axis % len(x.shape), first) for axis, first in zip(axes, begin, strict=True)]
    cut = [(axis, first) for axis, first in cut if shape[axis] != x.shape[axis]]
    if any(step != 1 for step in strides) or len(cut) > 1:
        raise at.error("a slice of several axes, or with steps")
    if not cut:
        return replace(x, shape=shape)
    axis, first = cut[0]
    if math.prod(x.shape[:axis]) != 1:
        raise at.error("a slice below an axis longer than 1")
    inner = math.prod(x.shape[axis + 1 :])
    return replace(x, ref=x.part((first % x.shape[axis]) * inner, math.prod(shape)), shape=shape)


def _rms_norm(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, gain, out = at.array(args[0]), at.array(args[1]), at.new(shape)
    width = shape[-1]
    if [axis % len(shape) for axis in attrs["axes"]] != [len(shape) - 1]:
        raise at.error("a norm over other axes than the last")
    for row in range(0, x.size, width):
        at.core.emit("rms", out.part(row, width), x.part(row, width), gain.ref, width, attrs["epsilon"])
    return out


def _rotary(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, (_, _, heads, dim), half = at.array(args[0]), shape, args[1].shape[1]
    if not isinstance(args[3], Position):
        raise at.error("explicit position ids; only the cache's own position is supported")
    cos, sin = at.position_row(args[1]), at.position_row(args[2])
    out = at.new(shape)
    at.core.emit("copy", out.ref, x.ref, x.size)
    pairs = "inter" if attrs["interleaved"] else "split"
    at.core.emit("rot", out.ref, cos.ref, sin.ref, heads, dim, half, pairs)
    return out


def _hadamard(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, out = at.array(args[0]), at.new(shape)
    rows = x.size // shape[-1]
    key = f"{args[1].name} x {rows}" if isinstance(args[1], Weight) else None
    signs = args[1] if key is None else at.constant(np.tile(at.weight(args[1]), rows), key)
    if at.array(signs).size != x.size:
        raise at.error("signs must be a parameter of the model")
    at.core.emit("copy", out.ref, x.ref, x.size)
    at.core.emit("had", out.ref, signs.ref, x.size, attrs["block"].bit_length() - 1)
    return out


def _spike_encode(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, core, group, levels = at.array(args[0]), at.core, attrs["group"], attrs["levels"]
    core.note(f"{at.where}: encode, {levels} levels, {attrs['coding']}, groups of {group}")
    theta, counts = at.new((*x.shape[:-1], x.shape[-1] // group)), at.new(x.shape, (levels, attrs["coding"]))
    core.emit("theta", theta.ref, x.ref, x.size, group, float(threshold_factor(levels, attrs["clip_ratio"])))
    if attrs["floor"]:
        _raise_to_floor(at, theta, float(np.float32(attrs["floor"])))
    if attrs["dead_zone"]:
        core.emit("copy", counts.ref, x.ref, x.size)
        core.emit("mute", counts.ref, theta.ref, x.size, group, float(np.float32(attrs["dead_zone"])))
        x = counts
    sign = "s" if attrs["signed"] else "u"
    core.emit("count", counts.ref, x.ref, theta.ref, x.size, group, levels, sign)
    return replace(counts, made=len(core.code) - 1), theta


def _raise_to_floor(at: VectorCores, theta: Array, floor: float) -> None:
    """theta = max(theta, floor): each beside a copy of the floor, and the larger of the two."""
    pair = at.new((2,))
    least = at.constant(np.array([floor], np.float32), f"floor {floor:.9g}")
    at.core.emit("copy", pair.part(1, 1), least.ref, 1)
    for g in range(theta.size):
        at.core.emit("copy", pair.ref, theta.part(g, 1), 1)
        at.core.emit("vmax", theta.part(g, 1), pair.ref, 2)


def _spike_accumulate(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    counts = args[0]
    if not isinstance(counts, Array) or counts.size != counts.shape[-1] or not isinstance(args[1], Weight):
        raise at.error("accumulation needs one token, and weights that are parameters")
    name, rows = attrs["name"], args[1].shape[0]
    at.probes.append(Probe(name, "linear", counts.core, counts.made, rows))
    return Pending(counts, args[1], attrs["group"], attrs["weight_bits"], name)


def _readout(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    result = emit_readout(at, args, at.core.core)
    at.core.note(f"{args[0].name}: results")
    return at.take(result, shape)


def emit_readout(at: VectorCores, args: Args, sink: int) -> Result:
    """Emits a linear layer whose outputs go to the core ``sink``, or to the host."""
    pending, theta = args[0], args[1]
    if not isinstance(pending, Pending) or pending.counts.train is None or not isinstance(theta, Array):
        raise at.error("a readout of something that is no accumulation of spikes")
    counts, (levels, coding) = pending.counts, pending.counts.train
    if theta.core != counts.core:
        raise at.error("counts and thresholds lie on different cores")
    spikes = Spikes(counts.ref, theta.ref, counts.size, counts.size // theta.size, levels, coding)
    bias = at.weight(args[3]) if len(args) > 3 else None
    layer = SynapticLayer(
        pending.name,
        at.weight(pending.weight),
        at.weight(args[2]),
        bias,
        pending.group,
        at.placement.stored_bits(pending.bits),
    )
    source = at.program.cores[counts.core]
    tiles, streamed = at.placement.tiles(layer), at.placement.streamed
    return emit_linear(at.program, source, spikes, layer, tiles, sink, streamed)


def _kv_append(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    if not isinstance(args[0], Cache) or not isinstance(args[2], Position):
        raise at.error("a cache must be an input of the module, appended at its position")
    return Cache(args[0].name, args[0].shape, at.array(args[1]))


def _spike_attention(at: VectorCores, args: Args, attrs: Attrs, shape: Shape) -> Value:
    caches, window = args[2:6], attrs["window"]
    size = caches[0].shape[2]
    if (
        not attrs["causal"]
        or 0 < window < size
        or len(args) > 7
        or any(cache.row is None for cache in caches)
    ):
        raise at.error("attention must be causal over its caches, without a mask or a window below max_seq")
    k_counts, k_theta, v_counts, v_theta = (cache.row for cache in caches)
    layer = AttentionLayer(
        attrs["name"],
        (at.array(args[0]), at.array(args[1])),
        (k_counts, k_theta),
        (v_counts, v_theta),
        size,
        attrs["scale"],
        attrs["softcap"],
        attrs["levels"],
        attrs["coding"],
        at.placement.synapse_bytes,
    )
    at.probes.append(Probe(layer.name, "attention", at.core.core, layer.q[0].made, 0))
    cores = at.placement.attention(layer.name, layer.kv_heads, layer.cores)
    result = emit_attention(at.program, at.core, layer, cores)
    at.core.note(f"{layer.name}: results")
    return at.take(result, shape)


HANDLERS: Final[dict[str, Callable[..., Value]]] = {
    "add": _arithmetic("vadd"),
    "subtract": _arithmetic("vsub"),
    "multiply": _arithmetic("vmul"),
    "divide": _arithmetic("vdiv"),
    "nn.silu": _unary("vsilu"),
    "exp": _unary("vexp"),
    "tanh": _unary("vtanh"),
    "sqrt": _unary("vsqrt"),
    "reshape": _same_words,
    "expand_dims": _same_words,
    "squeeze": _same_words,
    "permute_dims": _permute,
    "take": _take,
    "split": _split,
    "strided_slice": _slice,
    "nn.rms_norm": _rms_norm,
    "sdc.rotary": _rotary,
    "sdc.hadamard": _hadamard,
    "sdc.spike_encode": _spike_encode,
    "sdc.spike_accumulate": _spike_accumulate,
    "sdc.readout": _readout,
    "sdc.kv_append": _kv_append,
    "sdc.spike_attention": _spike_attention,
}
