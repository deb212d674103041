"""Fused steps as calls of this target's kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tvm
from tvm import tirx

from sdc.ir.bfloat16 import is_bfloat16
from sdc.ir.model import Model
from sdc.ir.ops import dtype_of, is_op, shape_of
from sdc.ir.tables import byte_rows
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.attention import spike_attention
from sdc.targets.cpu.kernels.encode import spike_encode
from sdc.targets.cpu.kernels.event import EventSpec, event_linear
from sdc.targets.cpu.kernels.heads import encode_heads
from sdc.targets.cpu.kernels.last import LastRow
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear
from sdc.targets.cpu.kernels.lookup import LookupSpec, lookup
from sdc.targets.cpu.layout import CacheLayout
from sdc.targets.cpu.lower.choice import Choices
from sdc.targets.cpu.packing import PackBias, PackColumns, PackScale, PackWeight
from sdc.targets.fused.graph import rows_and_width
from sdc.targets.fused.match import Encode, Linear
from sdc.targets.fused.match_attention import Attention
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.program import CHUNK, bound
from sdc.targets.fused.rebuild import Body, Rebuild, encoded, is_one

__all__ = ["BATCH", "Lowering", "add_batch"]

BATCH = "batch"
"""The function that decodes one token of each of several sequences."""


class Lowering(Rebuild):
    """Lowers functions for one instruction set.

    Args:
        isa: The instruction set that kernels are generated for.
        weights: Collects the packed weights.
        choices: Which form linears take; None: collapsed.
    """

    def __init__(self, isa: Isa, weights: PackedWeights, choices: Choices | None = None) -> None:
        super().__init__(weights, _Body)
        self.isa = isa
        self.choices = choices or Choices("collapsed", {})
        self.generators: dict[str, Callable[[], tirx.PrimFunc]] = {}

    def kernel(self, spec: Any, generate: Any) -> tvm.ir.GlobalVar:
        """The kernel of a specification, generated once a module; ``generators`` can make it again."""
        gvar = self.share(spec, lambda: generate(spec, self.isa))
        self.generators[str(gvar.name_hint)] = lambda: generate(spec, self.isa)
        return gvar


class _Body(Body):
    cache_layout = CacheLayout
    key_dtype = "uint8"
    rows_are_apart = False  # every row is the next token of a sequence of its own

    def generic(self, binding: Any) -> None:
        """An embedding has a kernel of ours, so that a whole decoder consists of such; the rest has not."""
        value = binding.value
        if not self._is_lookup(value):
            super().generic(binding)
            return
        table = self.graph.weight(value.args[0])
        rows, width = (int(d) for d in shape_of(table, "lookup"))
        tokens, _ = rows_and_width(value, width)
        parts = byte_rows(self.owner.weights.source[str(table.name)])
        args = [self.weight(table)] if parts is None else [self.owner.weights.own(part) for part in parts]
        args.append(self.view(value.args[1], [tokens]))
        spec = LookupSpec(rows, width, parts is not None, 1 if is_one(tokens) else 0)
        kernel = self.owner.kernel(spec, lookup)
        self.data[binding.var] = self.call(kernel, args, [([tokens, width], "float32")])

    def _is_lookup(self, value: Any) -> bool:
        if not is_op(value, "take") or self.graph.weight(value.args[0]) is None:
            return False
        table, indices = value.args
        axis, rank = value.attrs.axis, len(shape_of(table, "lookup"))
        return (rank, dtype_of(table), dtype_of(indices)) == (2, "float32", "int64") and int(axis or 0) == 0

    def linear(self, step: Linear) -> None:
        rows, _ = rows_and_width(step.counts, step.spec.width)
        counts = self.view(step.counts, [rows, step.spec.width])
        theta = self.view(step.theta, [rows, step.spec.theta_groups])
        is_logits = self.graph.root(self.graph.outputs[0]).same_as(step.out) and not step.spec.residual
        if self.last_only and is_logits and not is_one(rows):
            counts, theta, rows = self.last_rows(step, counts, theta)
            self.head_is_cut = True
        weights, names = self.owner.weights, [str(self.graph.root(w).name) for w in (step.weight, step.scale)]
        short = is_bfloat16(weights.source[names[1]])
        packed = LinearSpec(**vars(replace(step.spec, short_scales=short)))
        spec = replace(packed, tokens=1 if is_one(rows) else 0)
        shared = replace(packed, residual=False)
        event = self.owner.choices.form(step.name, spec) == "event"
        packing, suffix = (PackColumns(shared), ".columns") if event else (PackWeight(shared), ".packed")
        args = [
            counts,
            theta,
            weights.var(names[0], packing, suffix, "int32"),
            weights.var(names[1], PackScale(shared), ".packed", "uint16" if packed.short_scales else ""),
        ]
        if step.bias is not None:
            name = str(self.graph.root(step.bias).name)
            args.append(weights.var(name, PackBias(shared), ".packed"))
        if step.residual is not None:
            args.append(self.view(step.residual, [rows, spec.rows]))
        if event:
            kernel = self.owner.kernel(EventSpec(spec), event_linear)
        else:
            kernel = self.owner.kernel(spec, spike_linear)
        self.data[step.out] = self.call(kernel, args, [([rows, spec.rows], "float32")])

    def last_rows(self, step: Linear, counts: Any, theta: Any) -> tuple[Any, Any, Any]:
        """Counts and thresholds of the last token only."""
        spec = step.spec
        key = LastRow(str(counts.ty.dtype), spec.width, spec.theta_groups)
        out = [([1, spec.width], str(counts.ty.dtype)), ([1, spec.theta_groups], "float32")]
        both = self.call(self.owner.kernel(key, lambda k, _: k.generate()), [counts, theta], out)
        return self.item(both, 0), self.item(both, 1), 1

    def encode(self, step: Encode) -> None:
        spec = step.spec
        rows, _ = rows_and_width(encoded(self.graph, step.out), spec.width)
        strides = {s.tensor: s.stride for s in spec.streams}
        args = [self.view(s, [rows, strides[i]]) for i, s in enumerate(step.sources)]
        vectors = (step.gain, step.shift, step.scale, step.signs)
        args += [self.weight(v) for v in vectors if v is not None]
        args.append(self.owner.weights.limits((step.limits,)))
        spec = replace(spec, tokens=1 if is_one(rows) else 0)
        groups = spec.width // spec.encoder.group
        out = [([rows, spec.width], spec.encoder.dtype), ([rows, groups], "float32")]
        self.data[step.out] = self.call(self.owner.kernel(spec, spike_encode), args, out)

    def attention(self, step: Attention) -> None:
        heads, spec = step.heads, step.spec
        rows, _ = rows_and_width(
            step.sources[0], max(p.source.stride for p in heads.parts if p.source.tensor == 0)
        )
        # Kernels of one token, which a region calls for every row with its own position and cache.
        tokens = 1 if is_one(rows) or self.rows_are_apart else 0
        heads, spec = replace(heads, tokens=tokens), replace(spec, tokens=tokens)
        strides = {p.source.tensor: p.source.stride for p in heads.parts}
        args = [self.view(s, [rows, strides[i]]) for i, s in enumerate(step.sources)]
        position = self.view(step.position, [])
        args += [position, *(self.weight(t) for t in step.tables)]
        args += [self.weight(s) for s in step.signs if s is not None]
        args.append(self.owner.weights.limits(step.limits))
        states = [self.data[s] for s in step.states]
        query = [([rows, spec.heads, spec.width], "int8"), ([rows, spec.heads], "float32")]
        kernel = self.owner.kernel(heads, encode_heads)
        made = self.call(kernel, [*args, *states], query, fresh_from=len(args))
        k, k_theta, v, v_theta, q, q_theta = (self.item(made, i) for i in range(6))
        args = [q, q_theta, k, k_theta, v, v_theta, position]
        if step.encode is not None and step.encode.signs is not None:
            args.append(self.weight(step.encode.signs))
        if step.encode is not None:
            args.append(self.owner.weights.limits((step.encode.limits,)))
        channels = spec.heads * spec.value_width
        out = [([rows, spec.heads, spec.value_width], "float32")]
        if spec.encoder is not None:
            groups = channels // spec.encoder.group
            out = [([rows, channels], spec.encoder.dtype), ([rows, groups], "float32")]
        self.data[step.out] = self.call(self.owner.kernel(spec, spike_attention), args, out)


class _BatchBody(_Body):
    rows_are_apart = True


def add_batch(model: Model, lowering: Rebuild) -> None:
    """Adds :data:`BATCH`: what reads weights takes all rows at once; attention and its cache, row by row.

    It is no function by itself: only a region can call the kernels of one token that it names.
    """
    rows = bound(model, {"batch": 1})
    lowering.add(BATCH, rows, bound=min(CHUNK, model.info.max_seq), emitter=_BatchBody)
