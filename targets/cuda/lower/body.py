"""Fused steps as calls of this target's kernels, with a record of the schedule that each operation took."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import tvm
from tvm import relax

from sdc.ir.bfloat16 import is_bfloat16
from sdc.ir.ops import attributes, dtype_of, is_op, shape_of
from sdc.ir.tables import byte_rows
from sdc.targets.cuda.kernels.attention import (
    attention_mix,
    attention_output,
    attention_scores,
    attention_weights,
    can_attend,
)
from sdc.targets.cuda.kernels.attention_mma import attention_mma, can_attend_mma
from sdc.targets.cuda.kernels.cache import CacheLayout
from sdc.targets.cuda.kernels.encode import can_spike_encode, spike_encode
from sdc.targets.cuda.kernels.events import can_walk_events, expected_silence, pays, spike_events
from sdc.targets.cuda.kernels.gemm import spike_gemm
from sdc.targets.cuda.kernels.gemv import spike_gemv
from sdc.targets.cuda.kernels.heads import encode_heads
from sdc.targets.cuda.kernels.linear import can_gemv, schedule_of
from sdc.targets.cuda.kernels.places import apart_name
from sdc.targets.cuda.kernels.tables import AddRows, GatherRows, LastRow
from sdc.targets.cuda.packing import ByChannel, PackNibbles, ShortScales
from sdc.targets.fused.graph import rows_and_width
from sdc.targets.fused.match import Encode, Linear
from sdc.targets.fused.match_attention import Attention
from sdc.targets.fused.rebuild import Body, Step, encoded, is_one
from sdc.targets.fused.specs import AttentionSpec, EncodeSpec, LinearSpec, Stream

__all__ = ["ALL_REDUCE", "FALLBACK", "CudaBody", "Scheduled"]

# What the record says of operations that no kernel here takes: TVM's default GPU schedules
# (tvm.s_tir.dlight).
FALLBACK = "dlight"
ALL_REDUCE = "all-reduce"

NIBBLE = 4  # bits of the narrowest weights that kernels unpack

_LINEAR_KERNELS = {"gemv-dp4a": spike_gemv, "gemm-mma": spike_gemm, "events-ballot": spike_events}


@dataclass(frozen=True)
class Scheduled:
    """One line of the build report: a function's operation, its schedule, the kernels that it became."""

    function: str
    op: str
    schedule: str
    kernels: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"kernels": list(self.kernels)}


@dataclass(frozen=True)
class _Named:
    """A kernel that is no specification's only one."""

    spec: Any
    name: str

    def key(self) -> str:
        return self.name


class CudaBody(Body):
    """Emits one function; see :class:`sdc.targets.fused.rebuild.Body`."""

    cache_layout = CacheLayout
    key_dtype = "int8"
    apart = False  # every row is the next token of a sequence of its own

    def match(self) -> dict[Any, Step]:
        """Steps that a kernel takes; the others' operations are left to the fallback."""
        taken = {out: _as_nibbles(step) for out, step in super().match().items()}
        return {out: step for out, step in taken.items() if _can_take(step)}

    def record(self, op: str, schedule: str, *kernels: tvm.ir.GlobalVar) -> None:
        names = tuple(str(k.name_hint) for k in kernels)
        self.owner.schedules.append(Scheduled(self.owner.function, op, schedule, names))

    def linear(self, step: Linear) -> None:
        rows, _ = rows_and_width(step.counts, step.spec.width)
        counts = self.view(step.counts, [rows, step.spec.width])
        theta = self.view(step.theta, [rows, step.spec.theta_groups])
        is_logits = self.graph.root(self.graph.outputs[0]).same_as(step.out) and not step.spec.residual
        if self.last_only and is_logits and not is_one(rows):
            counts, theta, rows = self.last_rows(step, counts, theta)
            self.head_is_cut = True
        short = is_bfloat16(self.owner.weights.source[str(self.graph.weight(step.scale).name)])
        spec = replace(step.spec, tokens=1 if is_one(rows) else 0, short_scales=short)
        schedule = "events-ballot" if self.walks_events(step, spec) else schedule_of(spec)
        args = [counts, theta, self.packed(step, schedule), self.scales(step, short=short)]
        if step.bias is not None:
            args.append(self.weight(step.bias))
        if step.residual is not None:
            args.append(self.view(step.residual, [rows, spec.rows]))
        # Two operations of one specification may have other thresholds, and so other schedules.
        name = spec.key() + ("_events" if schedule == "events-ballot" else "")
        kernel = self.owner.kernel(_Named(spec, name), lambda: _LINEAR_KERNELS[schedule](spec))
        self.record(self.op_name(step.weight), schedule, kernel)
        self.data[step.out] = self.call(kernel, args, [([rows, spec.rows], "float32")])

    def walks_events(self, step: Linear, spec: LinearSpec) -> bool:
        """Whether so few channels are expected to spike that walking over them reads fewer bytes."""
        item = self.graph.item(step.counts)
        call = self.graph.call(item[0], "sdc.spike_encode") if item else None
        if spec.tokens != 1 or call is None or not can_walk_events(spec):
            return False
        attrs = attributes(call)
        silence = expected_silence(attrs["levels"], attrs["group"], attrs["clip_ratio"], attrs["dead_zone"])
        return pays(silence, spec.bits)

    def packed(self, step: Linear, schedule: str) -> relax.Var:
        """The weight in the order of its kernel."""
        name = str(self.graph.weight(step.weight).name)
        if schedule == "events-ballot":
            return self.owner.weights.var(name, ByChannel(), ".by_channel", "int8")
        if step.spec.bits == NIBBLE:
            return self.owner.weights.var(name, PackNibbles(), ".nibbles", "int32")
        return self.owner.weights.var(name)

    def scales(self, step: Linear, *, short: bool) -> relax.Var:
        """The weight scales, in half the bytes where they are bfloat16 numbers."""
        name = str(self.graph.weight(step.scale).name)
        return self.owner.weights.var(name, *((ShortScales(), ".short", "uint16") if short else ()))

    def op_name(self, weight: Any) -> str:
        return str(self.graph.weight(weight).name).removesuffix(".weight")

    def last_rows(self, step: Linear, counts: Any, theta: Any) -> tuple[Any, Any, Any]:
        """Counts and thresholds of the last token only."""
        spec, dtype = step.spec, str(counts.ty.dtype)
        key = LastRow(dtype, spec.width, spec.theta_groups)
        kernel = self.owner.kernel(key, key.generate)
        self.record("last token", "copy", kernel)
        out = [([1, spec.width], dtype), ([1, spec.theta_groups], "float32")]
        both = self.call(kernel, [counts, theta], out)
        return self.item(both, 0), self.item(both, 1), 1

    def encode(self, step: Encode) -> None:
        spec = step.spec
        rows, _ = rows_and_width(encoded(self.graph, step.out), spec.width)
        strides = {s.tensor: s.stride for s in spec.streams}
        args = [self.view(s, [rows, strides[i]]) for i, s in enumerate(step.sources)]
        vectors = (step.gain, step.shift, step.scale, step.signs)
        args += [self.weight(v) for v in vectors if v is not None]
        args.append(self.owner.weights.limits((step.limits,)))
        name = str(attributes(self.graph.call(step.out, "sdc.spike_encode"))["name"])
        self.data[step.out] = self.encode_rows(spec, rows, args, name)

    def encode_rows(self, spec: EncodeSpec, rows: Any, args: list[Any], op: str) -> Any:
        spec = replace(spec, tokens=1 if is_one(rows) else 0)
        groups = spec.width // spec.encoder.group
        out = [([rows, spec.width], spec.encoder.dtype), ([rows, groups], "float32")]
        kernel = self.owner.kernel(spec, lambda: spike_encode(spec))
        self.record(f"{op} encode", "encode-warp", kernel)
        return self.call(kernel, args, out)

    def attention(self, step: Attention) -> None:
        heads, spec = step.heads, step.spec
        strides = {p.source.tensor: p.source.stride for p in heads.parts}
        rows, _ = rows_and_width(step.sources[0], strides[0])
        tokens = 1 if is_one(rows) else 0
        heads, spec = replace(heads, tokens=tokens), replace(spec, tokens=tokens)
        args = [self.view(s, [rows, strides[i]]) for i, s in enumerate(step.sources)]
        position = self.place(step.position)
        args += [position, *(self.weight(t) for t in step.tables)]
        args += [self.weight(s) for s in step.signs if s is not None]
        args.append(self.owner.weights.limits(step.limits))
        states = [self.data[s] for s in step.states]
        query = [([rows, spec.heads, spec.width], "int8"), ([rows, spec.heads], "float32")]
        name = _Named(heads, apart_name(heads.key(), apart=self.apart))
        kernel = self.owner.kernel(name, lambda: encode_heads(heads, apart=self.apart))
        self.record(f"{self.attention_name(step)} heads", "heads-warp", kernel)
        made = self.call(kernel, [*args, *states], query, fresh_from=len(args))
        parts = [self.item(made, i) for i in (4, 5, 0, 1, 2, 3)]
        if not tokens and not self.apart and can_attend_mma(spec):
            self.attend_many(step, spec, rows, parts, position)
        else:
            self.attend_split(step, spec, rows, parts, position)

    def place(self, position: Any) -> Any:
        """Where the rows stand, as kernels take it."""
        return self.view(position, [])

    def attention_name(self, step: Attention) -> str:
        var = step.out if step.encode is None else step.encode.sources[0]
        return str(attributes(self.graph.call(var, "sdc.spike_attention"))["name"])

    def attend_many(
        self, step: Attention, spec: AttentionSpec, rows: Any, parts: list[Any], position: Any
    ) -> None:
        """All queries on the tensor cores, then an encoder of its own."""
        plain = replace(spec, encoder=None, block=0)
        kernel = self.owner.kernel(_Named(plain, "attention_mma"), lambda: attention_mma(plain))
        self.record(self.attention_name(step), "attention-mma", kernel)
        shape = [rows, spec.heads, spec.value_width]
        out = self.call(kernel, [*parts, position], [(shape, "float32")])
        if step.encode is None or spec.encoder is None:
            self.data[step.out] = out
            return
        width = spec.heads * spec.value_width
        flat = self.builder.emit(relax.op.reshape(out, [rows, width]))
        args = [flat, *self.output_arguments(step)]
        encoder = EncodeSpec(width, spec.encoder, (Stream(0, width, 0),), block=spec.block)
        self.data[step.out] = self.encode_rows(encoder, rows, args, self.attention_name(step))

    def output_arguments(self, step: Attention) -> list[Any]:
        """Signs and limits of the output's encoder."""
        if step.encode is None:
            return []
        signs = [] if step.encode.signs is None else [self.weight(step.encode.signs)]
        return [*signs, self.owner.weights.limits((step.encode.limits,))]

    def attend_split(
        self, step: Attention, spec: AttentionSpec, rows: Any, parts: list[Any], position: Any
    ) -> None:
        """Few queries: four kernels over pieces of the context."""
        q, q_theta, k, k_theta, v, v_theta = parts
        keys = CacheLayout(spec.kv_heads, spec.slots, spec.width)
        all_rows = ([rows, spec.heads, keys.slots], "float32")
        pieces = [rows, spec.heads, keys.pieces]
        names = ("scores", "weights", "mix", "output")
        makers = (attention_scores, attention_weights, attention_mix, attention_output)
        kernels = [
            self.owner.kernel(
                _Named(spec, apart_name(f"attention_{name}", apart=self.apart)),
                lambda make=make: make(spec, apart=self.apart),
            )
            for name, make in zip(names, makers, strict=True)
        ]
        self.record(self.attention_name(step), "attention-split", *kernels)
        made = self.call(kernels[0], [q, q_theta, k, k_theta, position], [all_rows, (pieces, "float32")])
        args = [self.item(made, 0), self.item(made, 1), v_theta, position]
        made = self.call(kernels[1], args, [all_rows, (pieces, "float32"), (pieces, "int32")])
        weights, sums, largest = (self.item(made, i) for i in range(3))
        mixed = self.call(
            kernels[2], [weights, largest, v, position], [([*pieces, spec.value_width], "int32")]
        )
        out = [([rows, spec.heads, spec.value_width], "float32")]
        if spec.encoder is not None:
            channels = spec.heads * spec.value_width
            groups = channels // spec.encoder.group
            out = [([rows, channels], spec.encoder.dtype), ([rows, groups], "float32")]
        args = [mixed, sums, largest, position, *self.output_arguments(step)]
        self.data[step.out] = self.call(kernels[3], args, out)

    def generic(self, binding: Any) -> None:
        """Rows of tables and sums by kernels, sums over workers by Disco, the rest by TVM's own schedules."""
        value = binding.value
        if is_op(value, "sdc.take_share") or (is_op(value, "take") and self.is_gather(value)):
            self.gather(binding)
            return
        if is_op(value, "add") and self.is_sum(value):
            self.add_up(binding)
            return
        super().generic(binding)
        if isinstance(value, relax.Call):
            schedule = ALL_REDUCE if is_op(value, "ccl.allreduce") else FALLBACK
            self.record(f"{value.op.name.removeprefix('relax.')} {binding.var.name}", schedule)

    def is_gather(self, call: Any) -> bool:
        table, index = call.args
        stored = self.graph.weight(table) is not None and dtype_of(table) == "float32"
        flat = len(shape_of(table, "take")) == 2 and int(attributes(call)["axis"] or 0) == 0
        return stored and flat and dtype_of(index) == "int64"

    def gather(self, binding: Any) -> None:
        """Rows of a whole table, or of a worker's share (``sdc.take_share``)."""
        table, index, *worker = binding.value.args
        count, width = (int(d) for d in shape_of(table, "take"))
        rows, _ = rows_and_width(binding.var, width)
        parts = byte_rows(self.owner.weights.source[str(self.graph.weight(table).name)])
        held = [self.weight(table)] if parts is None else [self.owner.weights.own(part) for part in parts]
        spec = GatherRows(count, width, 1 if is_one(rows) else 0, parts is not None, bool(worker))
        kernel = self.owner.kernel(spec, spec.generate)
        self.record(f"embedding {table.name}", "gather", kernel)
        args = [*held, self.view(index, [rows]), *map(self.weight, worker)]
        self.data[binding.var] = self.call(kernel, args, [([rows, width], "float32")])

    def is_sum(self, call: Any) -> bool:
        """Whether two tensors of one shape are added, or a stored vector to each row of one."""
        a, b = call.args
        shapes = [[str(d) for d in shape_of(x, "add")] for x in (a, b)]
        alike = shapes[0] == shapes[1] or (self.graph.weight(b) is not None and shapes[1] == shapes[0][-1:])
        known = len(shapes[0]) > 1 and isinstance(shape_of(a, "add")[-1], int)
        plain = self.graph.weight(a) is None and all(isinstance(x, relax.Var) for x in (a, b))
        return alike and known and plain and dtype_of(a) == dtype_of(b) == "float32"

    def add_up(self, binding: Any) -> None:
        a, b = binding.value.args
        rows, width = rows_and_width(a)
        spec = AddRows(width, len(shape_of(b, "add")) == 1, 1 if is_one(rows) else 0)
        kernel = self.owner.kernel(spec, spec.generate)
        self.record(f"add {binding.var.name}", "add", kernel)
        args = [self.view(a, [rows, width]), self.view(b, [width] if spec.vector else [rows, width])]
        self.data[binding.var] = self.call(kernel, args, [([rows, width], "float32")])


def _as_nibbles(step: Step) -> Step:
    """Weights of two bits are stored in four."""
    if isinstance(step, Linear) and step.spec.bits < NIBBLE:
        return replace(step, spec=replace(step.spec, bits=NIBBLE))
    return step


def _can_take(step: Step) -> bool:
    if isinstance(step, Linear):
        return can_gemv(step.spec)
    if isinstance(step, Encode):
        return can_spike_encode(step.spec)
    return can_attend(step.spec)
