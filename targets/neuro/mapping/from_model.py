"""The spike graph of a compiled model: read from its Relax module after the spike rewrite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from tvm import relax

from sdc.errors import TargetError
from sdc.ir.coding import time_steps
from sdc.ir.model import Model
from sdc.ir.ops import attributes, shape_of, static
from sdc.targets.neuro.mapping.graph import Accumulate, Attention, Encode, Readout, SpikeGraph, Vector
from sdc.targets.neuro.mapping.llama import ENCODE_OPS, NORM_OPS
from sdc.targets.neuro.mapping.statistics import SpikeStatistics

__all__ = ["graph_from_model", "layer_of"]

_VIEWS = {"reshape", "permute_dims", "squeeze", "expand_dims", "astype"}
_UNARY_OPS = {
    "nn.silu": 4.0,
    "nn.gelu": 6.0,
    "nn.gelu_tanh": 6.0,
    "nn.relu": 1.0,
    "sigmoid": 3.0,
    "tanh": 3.0,
}
_BINARY = {"add", "subtract", "multiply", "divide"}
_NORMS = {"nn.rms_norm", "nn.layer_norm"}

Part = tuple[str, int, int]
"""A producing operation, and a slice (offset, length) of its channels."""


@dataclass(frozen=True)
class _Value:
    """Where a tensor's channels come from, and what was done to them on the way.

    Attributes:
        parts: Producers; each slice is spread evenly over the tensor's channels.
        ops: Vector operations of one channel since the producers.
        block: Hadamard block.
        norm_of: The variable that was normalised: the residual stream, which the encoder keeps.
        encode: Attributes of the encoder whose counts this is.
    """

    parts: tuple[Part, ...]
    ops: float = 0.0
    block: int = 1
    norm_of: relax.Var | None = None
    encode: Mapping[str, Any] = field(default_factory=dict)


def graph_from_model(
    model: Model, statistics: SpikeStatistics | None = None, *, context: int = 512
) -> SpikeGraph:
    """The spike graph of one token.

    Args:
        model: After the pass rewrite-matmul-to-spikes.
        statistics: Measured spikes per neuron by operation name; a Gaussian estimate where missing. Its
            levels, coding and group are not used: those of the module's encoders are.
        context: Tokens in the KV cache for which time and energy are estimated (at most the cache's size).

    Raises:
        TargetError: The module still has float products, or an operation that has no place in a spike graph.
    """
    return _Reader(model, statistics or SpikeStatistics(), context).read()


class _Reader:
    def __init__(self, model: Model, statistics: SpikeStatistics, context: int) -> None:
        self.model, self.statistics, self.context = model, statistics, context
        self.graph = SpikeGraph(model.info.name or model.entry)
        self.function: relax.Function = model.module[model.entry]
        self.values: dict[relax.Var, _Value | tuple[_Value, ...]] = {}
        self.shapes: dict[relax.Var, list[Any]] = {}
        self.encoders: dict[tuple[Part, ...], dict[str, str]] = {}
        self.layer = 0
        self.handlers: dict[str, Callable[[relax.Call], _Value]] = {
            "take": self.embed,
            "sdc.hadamard": self.hadamard,
            "sdc.rotary": self.rotary,
            "sdc.spike_encode": self.encoded,
            "sdc.spike_accumulate": self.accumulate,
            "sdc.readout": self.readout,
            "sdc.kv_append": self.append,
            "sdc.spike_attention": self.attention,
        }

    def read(self) -> SpikeGraph:
        count = int(self.function.attrs["num_input"])
        for i, var in enumerate(self.function.params):
            if i < count and "cache" not in str(var.name) and "theta" not in str(var.name):
                self.values[var] = _Value(())
        for block in self.function.body.blocks:
            for binding in block.bindings:
                self.bind(binding.var, binding.value)
        self.finish()
        return self.graph

    def bind(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Var):
            if value in self.values:
                self.values[var] = self.values[value]
        elif isinstance(value, relax.TupleGetItem):
            whole = self.values.get(value.tuple_value)
            if isinstance(whole, tuple):
                self.values[var] = whole[value.index]
            elif whole is not None:
                self.values[var] = whole
        elif isinstance(value, relax.Call):
            found = self.call(value)
            if found is not None:
                self.values[var] = found

    def call(self, call: relax.Call) -> _Value | tuple[_Value, ...] | None:
        name = str(getattr(call.op, "name", call.op)).removeprefix("relax.")
        if name in self.handlers:
            return self.handlers[name](call)
        if name == "split":
            return self.split(call)
        inputs = [v for v in (self.value(a) for a in call.args) if v is not None]
        if not inputs:
            return None  # arithmetic on weights, positions and shapes alone
        if name in _VIEWS:
            return inputs[0]
        if name in _NORMS:
            source = call.args[0]
            return replace(inputs[0], ops=inputs[0].ops + NORM_OPS, norm_of=source)
        if name in _UNARY_OPS:
            return replace(inputs[0], ops=inputs[0].ops + _UNARY_OPS[name], norm_of=None)
        if name in _BINARY:
            return self.merge(inputs)
        raise TargetError(
            f"{name}: has no place in a spike graph; map the module after rewrite-matmul-to-spikes "
            "(known: linear layers and attention as spikes, norms, element-wise operations, views)"
        )

    def value(self, expr: relax.Expr) -> _Value | None:
        found = self.values.get(expr) if isinstance(expr, relax.Var) else None
        return found if isinstance(found, _Value) else None

    def need(self, call: relax.Call, index: int) -> _Value:
        found = self.value(call.args[index])
        if found is None:
            name = str(getattr(call.op, "name", call.op))
            raise TargetError(f"{name}: input {index} does not come from the model's inputs")
        return found

    @staticmethod
    def merge(inputs: list[_Value]) -> _Value:
        parts: dict[Part, None] = dict.fromkeys(part for v in inputs for part in v.parts)
        return _Value(tuple(parts), max(v.ops for v in inputs) + 1.0, max(v.block for v in inputs))

    def split(self, call: relax.Call) -> tuple[_Value, ...]:
        whole = self.need(call, 0)
        width = static(shape_of(call.args[0], "split")[-1], "split", "the channel count")
        sections = attributes(call)["indices_or_sections"]
        if isinstance(sections, int):
            cuts = [width * i // sections for i in range(1, sections)]
        else:
            cuts = [int(i) for i in sections]
        ends = [0, *cuts, width]
        return tuple(
            replace(
                whole,
                parts=tuple(
                    (name, offset + a * length // width, (b - a) * length // width)
                    for name, offset, length in whole.parts
                ),
            )
            for a, b in pairwise(ends)
        )

    def embed(self, call: relax.Call) -> _Value:
        width = static(shape_of(call.args[0], "take")[-1], "take", "the embedding width")
        name = "embed" if "embed" not in self.graph.net else f"embed.{len(self.graph.net)}"
        self.graph.add(Vector(name, -1, width, external_bytes=4 * width))
        return _Value(((name, 0, width),))

    def hadamard(self, call: relax.Call) -> _Value:
        x, block = self.need(call, 0), int(attributes(call)["block"])
        return replace(x, ops=x.ops + math.log2(block), block=max(block, x.block))

    def rotary(self, call: relax.Call) -> _Value:
        x = self.need(call, 0)
        return replace(x, ops=x.ops + 3.0)

    def encoded(self, call: relax.Call) -> _Value:
        width = static(shape_of(call.args[0], "spike_encode")[-1], "spike_encode", "the channel count")
        return replace(self.need(call, 0), encode={**attributes(call), "width": width, "source": call})

    def encoder(self, value: _Value, name: str) -> Encode:
        """The node of an encoder, made when the first accumulate asks for it."""
        attrs = value.encode
        known = self.encoders.setdefault(value.parts, {})
        key = f"{value.norm_of is not None}:{value.ops}:{attrs['levels']}:{attrs['coding']}:{attrs['group']}"
        if key not in known:
            known[key] = self.new_encoder(value, attrs, name)
        op = self.graph.op(known[key])
        assert isinstance(op, Encode)
        return op

    def new_encoder(self, value: _Value, attrs: Mapping[str, Any], name: str) -> str:
        width, group = int(attrs["width"]), int(attrs["group"])
        general = replace(self.statistics, levels=int(attrs["levels"]), coding=attrs["coding"], group=group)
        node = self.graph.add(
            Encode(
                name=f"{name}.encode",
                layer=self.layer,
                width=width,
                levels=int(attrs["levels"]),
                coding=attrs["coding"],
                group=group,
                spikes_per_neuron=general.spikes(name),
                ops_per_channel=ENCODE_OPS + value.ops,
                whole_row=value.norm_of is not None or group == width,
                block=value.block,
            )
        )
        self.connect(node, value.parts)
        if value.norm_of is not None:  # the encoder keeps the residual stream for those who add to it
            self.values[value.norm_of] = _Value(((node, 0, width),))
        return node

    def connect(self, node: str, parts: tuple[Part, ...]) -> None:
        slices: dict[str, list[tuple[int, int]]] = {}
        for name, offset, length in parts:
            slices.setdefault(name, []).append((offset, length))
        for name, found in slices.items():
            self.graph.connect(name, node, parts=tuple(found))

    def accumulate(self, call: relax.Call) -> _Value:
        attrs = attributes(call)
        name = str(attrs["name"]) or f"linear.{len(self.graph.net)}"
        rows, width = (static(d, name, "the weight's shape") for d in shape_of(call.args[1], name))
        self.layer = layer_of(name, self.layer)
        encode = self.encoder(self.need(call, 0), name)
        group = int(attrs["group"])
        self.graph.add(Accumulate(name, self.layer, rows, width, int(attrs["weight_bits"]), group))
        self.graph.connect(encode.name, name, "spikes")
        return _Value(((name, 0, rows),), encode={"groups": width // group})

    def readout(self, call: relax.Call) -> _Value:
        acc = self.need(call, 0)
        ((name, _, rows),) = acc.parts
        node = self.graph.add(Readout(f"{name}.readout", self.layer, rows, int(acc.encode["groups"])))
        self.graph.connect(name, node, "sums")
        return _Value(((node, 0, rows),))

    def append(self, call: relax.Call) -> _Value:
        return self.need(call, 1)

    def attention(self, call: relax.Call) -> _Value:
        attrs = attributes(call)
        name = str(attrs["name"]) or f"attention.{len(self.graph.net)}"
        heads, head_dim = (static(d, name, "the head's shape") for d in shape_of(call.args[0], name)[2:])
        _, kv_heads, max_seq, _ = shape_of(call.args[2], name)
        query, key, value = (self.need(call, i) for i in (0, 2, 4))
        self.layer = layer_of(name, self.layer)
        seq = static(max_seq, name, "the length of the cache")
        levels, coding = int(query.encode["levels"]), query.encode["coding"]
        general = replace(
            self.statistics, coding=coding, query_levels=levels, probability_levels=int(attrs["levels"])
        )
        context = min(self.context, seq)
        self.graph.add(
            Attention(
                name=name,
                layer=self.layer,
                heads=heads,
                kv_heads=static(kv_heads, name, "the number of KV heads"),
                head_dim=head_dim,
                context=context,
                max_seq=seq,
                query_spikes=self.statistics.by_op.get(f"{name}:q", general.query_spikes(head_dim)),
                probability_spikes=self.statistics.by_op.get(
                    f"{name}:p", general.probability_spikes(context)
                ),
                query_steps=time_steps(coding, levels),
                probability_steps=time_steps(coding, int(attrs["levels"])),
            )
        )
        self.connect(name, (*query.parts, *key.parts, *value.parts))
        return _Value(((name, 0, heads * head_dim),))

    def finish(self) -> None:
        """The first output leaves the machine: a decoder's as the next token, others as they are."""
        result = self.function.body.body
        if isinstance(result, relax.Var):
            bound = self.function.body.blocks[-1].bindings
            named = {b.var: b.value for b in bound}
            if isinstance(named.get(result), relax.Tuple | relax.Var):
                result = named[result]
        fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        first = self.value(fields[0])
        if first is None or not first.parts:
            raise TargetError("the first output does not depend on any operation that could be mapped")
        if self.model.info.kind == "decoder":
            self.graph.add(Vector("sample", -1, 1, ops_per_channel=2.0))
            for name in dict.fromkeys(part[0] for part in first.parts):
                self.graph.connect(name, "sample", "summary")
            return
        width = max(length for _, _, length in first.parts)
        self.graph.add(Vector("output", -1, width, ops_per_channel=1.0 + first.ops))
        self.connect("output", first.parts)


def layer_of(name: str, default: int) -> int:
    """The number in ``layers.3.mlp.down``; operations without one belong to the layer before them."""
    return next((int(word) for word in name.split(".") if word.isdigit()), default)
