"""What the hub core does for each operation of the module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.ir.model import Model
from sdc.ir.ops.spike_encode import threshold_factor
from sdc.targets.neuro.codegen.attention import AttentionLayer, emit_attention
from sdc.targets.neuro.codegen.builder import ProgramBuilder
from sdc.targets.neuro.codegen.linear import Spikes, SynapticLayer, emit_linear
from sdc.targets.neuro.codegen.values import Array, Cache, Pending, Placement, Position, Value, Weight

__all__ = ["HANDLERS", "Hub"]

RESIDENT_BYTES: Final = 1 << 16  # a larger embedding table stays in external memory


class Hub:
    """The hub core under construction.

    Attributes:
        where: Name of the operation in work, for messages.
    """

    def __init__(self, model: Model, program: ProgramBuilder, placement: Placement) -> None:
        self.model, self.program, self.placement = model, program, placement
        self.core = program.core(placement.hub, "hub")
        self.where = ""
        self._constants: dict[Any, Array] = {}
        self._external: list[NDArray] = []
        self._tables: dict[tuple[str, str], Any] = {}

    def external(self) -> NDArray:
        """Contents of the external memory, uint8."""
        return np.concatenate(self._external) if self._external else np.zeros(0, np.uint8)

    def weight(self, value: Value) -> NDArray:
        """The values of a parameter.

        Raises:
            TargetError: It is computed at run time.
        """
        if not isinstance(value, Weight):
            raise self.error("a weight must be a parameter of the model")
        return self.model.params[value.name].value()

    def constant(self, array: NDArray, key: str | None = None) -> Array:
        """Float32 constants in the hub's memory; once per ``key``."""
        data = np.asarray(array, np.float32)
        name = key or (data.shape, data.tobytes())
        if name not in self._constants:
            self._constants[name] = Array(self.core.constant(data), data.shape)
        return self._constants[name]

    def array(self, value: Value) -> Array:
        """An activation, or a small weight as a constant."""
        if isinstance(value, Weight):
            return self.constant(self.weight(value), value.name)
        if not isinstance(value, Array):
            raise self.error(f"an activation was expected, not a {type(value).__name__.lower()}")
        return value

    def new(self, shape: tuple[int, ...]) -> Array:
        """Room for an activation."""
        return Array(self.core.words(math.prod(shape)), shape)

    def table(self, value: Value) -> Any:
        """The address of a float32 table in the hub's synapse memory, once."""
        assert isinstance(value, Weight)
        key = ("s", value.name)
        if key not in self._tables:
            self._tables[key] = self.core.constant(self.weight(value).astype(np.float32), "s")
        return self._tables[key]

    def outside(self, value: Weight) -> int:
        """The address of a float32 table in external memory, once."""
        key = ("x", value.name)
        if key not in self._tables:
            self._tables[key] = sum(len(part) for part in self._external)
            self._external.append(self.weight(value).astype(np.float32).reshape(-1).view(np.uint8))
        return int(self._tables[key])

    def error(self, message: str) -> TargetError:
        """An error that names the operation in work."""
        return TargetError(f"{self.where}: {message}")


Args = Sequence[Any]
Attrs = dict[str, Any]
Shape = tuple[int, ...]


def _same_words(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    """Another shape of the same words."""
    x = hub.array(args[0])
    return Array(x.ref, shape, x.train)


def _permute(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x = hub.array(args[0])
    axes = attrs.get("axes") or range(len(x.shape))[::-1]
    moved = [int(axis) for axis in axes if x.shape[int(axis)] > 1]
    if moved != sorted(moved):
        raise hub.error("a transposition of more than axes of length 1")
    return Array(x.ref, shape, x.train)


def _arithmetic(name: str) -> Callable[..., Value]:
    def emit(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
        a, b = hub.array(args[0]), hub.array(args[1])
        if a.size == 1 and b.size > 1 and name in ("vadd", "vmul"):
            a, b = b, a
        if a.size not in (1, b.size) and b.size != 1:
            raise hub.error(f"shapes {list(a.shape)} and {list(b.shape)} do not match word by word")
        if a.size < b.size:
            raise hub.error("a scalar cannot stand on the left of a subtraction or division")
        out = hub.new(shape)
        hub.core.emit(name if a.size == b.size else f"{name}s", out.ref, a.ref, b.ref, out.size)
        return out

    return emit


def _unary(name: str) -> Callable[..., Value]:
    def emit(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
        x, out = hub.array(args[0]), hub.new(shape)
        hub.core.emit(name, out.ref, x.ref, out.size)
        return out

    return emit


def _take(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    table, row = args[0], hub.array(args[1])
    if not isinstance(table, Weight) or row.size != 1 or attrs.get("axis") not in (0, None):
        raise hub.error("only rows of a weight table can be looked up, one per token")
    out, (rows, width) = hub.new(shape), table.shape
    if 4 * rows * width <= RESIDENT_BYTES:
        hub.core.emit("gather", out.ref, hub.table(table), row.ref, width, rows)
        return out
    buffer = hub.core.bytes(4 * width)
    hub.core.emit("fetch", buffer, hub.outside(table), row.ref, 4 * width)
    hub.core.emit("ldw", out.ref, buffer, width)
    return out


def _split(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, axis, where = hub.array(args[0]), attrs["axis"], attrs["indices_or_sections"]
    axis %= len(x.shape)
    size = x.shape[axis]
    if math.prod(x.shape[:axis]) != 1:
        raise hub.error("a split below an axis longer than 1")
    edges = (
        [i * size // where for i in range(1, where)] if isinstance(where, int) else [int(w) for w in where]
    )
    inner, bounds = math.prod(x.shape[axis + 1 :]), [0, *edges, size]
    parts = []
    for first, last in pairwise(bounds):
        part = (*x.shape[:axis], last - first, *x.shape[axis + 1 :])
        parts.append(Array(x.part(first * inner, (last - first) * inner), part, x.train))
    return tuple(parts)


def _slice(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, axes, begin = hub.array(args[0]), args[1], args[2]
    strides = args[4] if len(args) > 4 else (1,) * len(axes)
    cut = [(axis % len(x.shape), first) for axis, first in zip(axes, begin, strict=True)]
    cut = [(axis, first) for axis, first in cut if shape[axis] != x.shape[axis]]
    if any(step != 1 for step in strides) or len(cut) > 1:
        raise hub.error("a slice of several axes, or with steps")
    if not cut:
        return Array(x.ref, shape, x.train)
    axis, first = cut[0]
    if math.prod(x.shape[:axis]) != 1:
        raise hub.error("a slice below an axis longer than 1")
    inner = math.prod(x.shape[axis + 1 :])
    return Array(x.part((first % x.shape[axis]) * inner, math.prod(shape)), shape, x.train)


def _rms_norm(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, gain, out = hub.array(args[0]), hub.array(args[1]), hub.new(shape)
    width = shape[-1]
    if [axis % len(shape) for axis in attrs["axes"]] != [len(shape) - 1]:
        raise hub.error("a norm over other axes than the last")
    for row in range(0, x.size, width):
        hub.core.emit("rms", out.part(row, width), x.part(row, width), gain.ref, width, attrs["epsilon"])
    return out


def _rotary(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, (_, _, heads, dim), half = hub.array(args[0]), shape, args[1].shape[1]
    if not isinstance(args[3], Position):
        raise hub.error("explicit position ids; only the cache's own position is supported")
    out = hub.new(shape)
    hub.core.emit("copy", out.ref, x.ref, x.size)
    pairs = "inter" if attrs["interleaved"] else "split"
    hub.core.emit("rot", out.ref, hub.table(args[1]), hub.table(args[2]), heads, dim, half, pairs)
    return out


def _hadamard(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, out = hub.array(args[0]), hub.new(shape)
    rows = x.size // shape[-1]
    key = f"{args[1].name} x {rows}" if isinstance(args[1], Weight) else None
    signs = args[1] if key is None else hub.constant(np.tile(hub.weight(args[1]), rows), key)
    if hub.array(signs).size != x.size:
        raise hub.error("signs must be a parameter of the model")
    hub.core.emit("copy", out.ref, x.ref, x.size)
    hub.core.emit("had", out.ref, signs.ref, x.size, attrs["block"].bit_length() - 1)
    return out


def _spike_encode(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    x, core, group, levels = hub.array(args[0]), hub.core, attrs["group"], attrs["levels"]
    hub.core.note(f"{hub.where}: encode, {levels} levels, {attrs['coding']}, groups of {group}")
    theta = hub.new((*x.shape[:-1], x.shape[-1] // group))
    core.emit("theta", theta.ref, x.ref, x.size, group, float(threshold_factor(levels, attrs["clip_ratio"])))
    if attrs["dead_zone"]:
        loud = hub.new(x.shape)
        core.emit("copy", loud.ref, x.ref, x.size)
        core.emit("mute", loud.ref, theta.ref, x.size, group, float(np.float32(attrs["dead_zone"])))
        x = loud
    counts = Array(core.words(x.size), x.shape, (levels, attrs["coding"]))
    core.emit("count", counts.ref, x.ref, theta.ref, x.size, group, levels, "s" if attrs["signed"] else "u")
    return counts, theta


def _spike_accumulate(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    counts = hub.array(args[0])
    if not isinstance(args[1], Weight) or counts.size != counts.shape[-1]:
        raise hub.error("accumulation needs one token, and weights that are parameters")
    return Pending(counts, args[1], attrs["group"], attrs["weight_bits"], attrs["name"])


def _readout(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    pending, theta = args[0], hub.array(args[1])
    if not isinstance(pending, Pending) or pending.counts.train is None:
        raise hub.error("a readout of something that is no accumulation of spikes")
    counts, (levels, coding) = pending.counts, pending.counts.train
    spikes = Spikes(counts.ref, theta.ref, counts.size, counts.size // theta.size, levels, coding)
    bias = hub.weight(args[3]) if len(args) > 3 else None
    layer = SynapticLayer(
        pending.name, hub.weight(pending.weight), hub.weight(args[2]), bias, pending.group, pending.bits
    )
    y = emit_linear(hub.program, hub.core, spikes, layer, hub.placement.tiles(layer))
    return Array(y, shape)


def _kv_append(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    if not isinstance(args[0], Cache) or not isinstance(args[2], Position):
        raise hub.error("a cache must be an input of the module, appended at its position")
    return Cache(args[0].name, args[0].shape, hub.array(args[1]))


def _spike_attention(hub: Hub, args: Args, attrs: Attrs, shape: Shape) -> Value:
    caches, window = args[2:6], attrs["window"]
    size = caches[0].shape[2]
    if (
        not attrs["causal"]
        or 0 < window < size
        or len(args) > 7
        or any(cache.row is None for cache in caches)
    ):
        raise hub.error("attention must be causal over its caches, without a mask or a window below max_seq")
    k_counts, k_theta, v_counts, v_theta = (cache.row for cache in caches)
    layer = AttentionLayer(
        attrs["name"],
        (hub.array(args[0]), hub.array(args[1])),
        (k_counts, k_theta),
        (v_counts, v_theta),
        size,
        attrs["scale"],
        attrs["softcap"],
        attrs["levels"],
        attrs["coding"],
    )
    return emit_attention(hub.program, hub.core, layer, hub.placement.attention(layer.name, layer.kv_heads))


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
