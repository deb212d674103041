"""Rebuilds a spiking function as calls of fused kernels; what no kernel takes stays a Relax operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from sdc.errors import TargetError
from sdc.ir.ops import is_dimension, shape_of
from sdc.ir.params import Param, Transform, array_param
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.attention import spike_attention
from sdc.targets.cpu.kernels.cache import CacheLayout
from sdc.targets.cpu.kernels.encode import spike_encode
from sdc.targets.cpu.kernels.heads import encode_heads
from sdc.targets.cpu.kernels.last import LastRow
from sdc.targets.cpu.kernels.linear import spike_linear
from sdc.targets.cpu.kernels.rows import limits
from sdc.targets.cpu.lower.graph import Graph, reads, rows_and_width
from sdc.targets.cpu.lower.match import (
    Attention,
    Encode,
    Limits,
    Linear,
    match_attention,
    match_encode,
    match_linear,
)
from sdc.targets.cpu.packing import PackBias, PackScale, PackWeight

__all__ = ["Lowering", "PackedWeights", "State"]

Step = Linear | Encode | Attention


@dataclass(frozen=True)
class State:
    """A run-time input that lives between calls; ``in_place`` where the kernels write into it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    in_place: bool


@dataclass
class PackedWeights:
    """Weights of the lowered functions in the order of their first use, shared by all functions."""

    source: Mapping[str, Param]
    params: dict[str, Param] = field(default_factory=dict)
    vars: dict[str, relax.Var] = field(default_factory=dict)

    def var(
        self, name: str, packing: Transform | None = None, suffix: str = "", dtype: str = ""
    ) -> relax.Var:
        """The variable of a weight, packed for its kernel."""
        key = name + suffix
        if key not in self.params:
            param = self.source[name]
            param = param if packing is None else param.then(packing, name=key, dtype=dtype or None)
            self.params[key] = param
            self.vars[key] = relax.Var(key, relax.TensorType(list(param.shape), param.dtype))
        elif packing is not None and packing not in self.params[key].transforms:
            raise TargetError(f"{name} is read by two operations that want it packed differently")
        return self.vars[key]

    def limits(self, encoders: tuple[Limits, ...]) -> relax.Var:
        """The numbers of encoders, [3] or [encoders, 3]; equal ones are kept once."""
        name = "limits:" + ";".join(",".join(f"{n:.9g}" for n in each) for each in encoders)
        if name not in self.params:
            rows = np.array([limits(*each) for each in encoders])
            self.params[name] = array_param(name, rows[0] if len(encoders) == 1 else rows)
            self.vars[name] = relax.Var(name, relax.TensorType(list(self.params[name].shape), "float32"))
        return self.vars[name]


class Lowering:
    """Lowers functions into one module, so that equal kernels are shared.

    Args:
        isa: The instruction set that kernels are generated for.
        weights: Collects the packed weights.
    """

    def __init__(self, isa: Isa, weights: PackedWeights) -> None:
        self.isa, self.weights = isa, weights
        self.builder = relax.BlockBuilder()
        self.kernels: dict[Any, tvm.ir.GlobalVar] = {}
        self.states: list[State] = []
        self.launches: dict[str, int] = {}

    def add(self, name: str, function: relax.Function, *, last_only: bool = False, bound: int = 0) -> None:
        """Lowers ``function`` under ``name``.

        Args:
            last_only: Only the last token's first output is wanted.
            bound: Largest value of the symbolic sequence length, 0 where there is none.
        """
        body = _Body(self, Graph(function), last_only)
        with self.builder.function(name):
            with self.builder.dataflow():
                result = self.builder.emit_output(body.emit())
            self.builder.emit_func_output(result, [*body.inputs, *self.weights.vars.values()])
        self.states = body.states()
        self.launches[name] = body.launches
        if bound:
            gvar = self.builder.get().get_global_var(name)
            made = self.builder.get()[gvar].with_attr("tir_var_upper_bound", {"seq": bound})
            self.builder.update_func(gvar, made)

    def kernel(self, spec: Any, generate: Any) -> tvm.ir.GlobalVar:
        """The kernel of a specification, generated once a module."""
        if spec not in self.kernels:
            self.kernels[spec] = self.builder.add_func(generate(spec, self.isa), spec.key())
        return self.kernels[spec]


class _Body:
    def __init__(self, owner: Lowering, graph: Graph, last_only: bool) -> None:
        self.owner, self.graph, self.last_only = owner, graph, last_only
        self.builder = owner.builder
        self.launches = 0
        self.head_is_cut = False
        self.steps = self.match()
        self.needed = self.liveness()
        self.data: dict[Any, Any] = {}
        self.views: dict[tuple[Any, str], Any] = {}
        self.in_place = self.layouts()
        self.inputs = [self.input(var) for var in graph.inputs]

    def match(self) -> dict[Any, Step]:
        """The step that computes each variable, by the step's last variable."""
        graph, steps = self.graph, dict[Any, Step]()
        for binding in graph.bindings:
            for matcher in (match_attention, match_linear, match_encode):
                step = matcher(graph, binding.var) if not graph.is_view(binding.var) else None
                if step is not None:
                    steps.setdefault(step.out, step)
                    break
        return steps

    def step_reads(self, step: Step) -> list[Any]:
        """Tensors that a step needs, weights aside."""
        if isinstance(step, Linear):
            return [v for v in (step.counts, step.theta, step.residual) if v is not None]
        if isinstance(step, Encode):
            return list(step.sources)
        return [*step.sources, step.position]

    def liveness(self) -> set[Any]:
        """What must be computed: walks back from the outputs that kernels do not write in place."""
        graph = self.graph
        written = {v for s in self.steps.values() if isinstance(s, Attention) for v in self.appended(s)}
        self.outputs = [v for v in graph.outputs if graph.root(v) not in written]
        needed: set[Any] = set()
        work = [graph.root(v) for v in self.outputs]
        work += [s.out for s in self.steps.values() if isinstance(s, Attention)]
        while work:
            var = work.pop()
            if var in needed:
                continue
            needed.add(var)
            step = self.steps.get(var)
            value = graph.producer.get(var)
            wanted = self.step_reads(step) if step else reads(value) if value is not None else []
            work += [graph.root(v) for v in wanted]
        return needed

    def appended(self, step: Attention) -> list[Any]:
        """The kv_append results of the caches that a step writes in place."""
        graph = self.graph
        return [
            graph.root(b.var)
            for b in graph.bindings
            if (call := graph.call(b.var, "sdc.kv_append")) is not None
            and any(call.args[0].same_as(s) for s in step.states)
        ]

    def layouts(self) -> dict[Any, tuple[tuple[int, ...], str]]:
        """Shape and dtype of the caches that kernels lay out in their own way."""
        found: dict[Any, tuple[tuple[int, ...], str]] = {}
        for step in self.steps.values():
            if isinstance(step, Attention):
                spec = step.spec
                keys = CacheLayout(spec.kv_heads, spec.slots, spec.width)
                values = CacheLayout(spec.kv_heads, spec.slots, spec.value_width)
                made = (
                    (keys.key_shape, "uint8"),
                    (keys.theta_shape, "float32"),
                    (values.value_shape, "int8"),
                    (values.theta_shape, "float32"),
                )
                found.update(zip(step.states, made, strict=True))
        return found

    def input(self, var: Any) -> relax.Var:
        shape, dtype = self.in_place.get(var, (None, ""))
        ty = var.ty if shape is None else relax.TensorType(list(shape), dtype)
        self.data[var] = relax.Var(var.name, ty)
        return self.data[var]

    def states(self) -> list[State]:
        """The inputs after tokens and position."""
        return [
            State(
                str(new.name),
                tuple(int(d) for d in shape_of(new, "state")),
                str(new.ty.dtype),
                old in self.in_place,
            )
            for old, new in zip(self.graph.inputs[2:], self.inputs[2:], strict=True)
            if all(isinstance(d, int) for d in shape_of(new, "state"))
        ]

    def emit(self) -> relax.Expr:
        graph = self.graph
        for binding in graph.bindings:
            var = binding.var
            if graph.is_view(var) or var not in self.needed:
                continue
            step = self.steps.get(var)
            if isinstance(step, Linear):
                self.linear(step)
            elif isinstance(step, Encode):
                self.encode(step)
            elif isinstance(step, Attention):
                self.attention(step)
            else:
                self.generic(binding)
        results = [self.result(i, v) for i, v in enumerate(self.outputs)]
        return relax.Tuple(results) if len(results) > 1 else results[0]

    def result(self, index: int, var: Any) -> relax.Expr:
        if index or not self.last_only:
            return self.view(var, shape_of(var, "result"))
        if self.head_is_cut:
            return self.data[self.graph.root(var)]
        rows, width = rows_and_width(var)
        flat = self.view(var, [rows, width])
        if _is_one(rows):
            return flat
        return self.builder.emit(relax.op.strided_slice(flat, [0], [rows - 1], [rows]))

    def view(self, var: Any, shape: list[Any]) -> Any:
        """The data of an old variable in a shape."""
        if self.graph.weight(var) is not None:
            new: Any = self.owner.weights.var(str(self.graph.root(var).name))
        elif isinstance(var, relax.Var):
            new = self.data[self.graph.root(var)]
        else:
            return var
        if not isinstance(new, relax.Var) or isinstance(new.ty, tvm.ir.TupleType) or _same(new, shape):
            return new
        key = (new, str(shape))
        if key not in self.views:
            dims = [tirx.IntImm("int64", d) if isinstance(d, int) else d for d in shape]
            self.views[key] = self.builder.emit(relax.op.reshape(new, dims))
        return self.views[key]

    def weight(self, var: Any) -> relax.Var:
        return self.owner.weights.var(str(self.graph.weight(var).name))

    def call(self, gvar: Any, args: list[Any], out: list[tuple[list[Any], str]], fresh_from: int = -1) -> Any:
        """A kernel call; arguments from ``fresh_from`` on are written in place, before the fresh outputs."""
        self.launches += 1
        types = [relax.TensorType([_dim(d) for d in shape], dtype) for shape, dtype in out]
        if fresh_from < 0:
            return self.builder.emit(relax.call_tir(gvar, args, types if len(types) > 1 else types[0]))
        held = list(range(fresh_from, len(args)))
        types = [args[i].ty for i in held] + types
        return self.builder.emit(
            relax.op.call_tir_inplace(gvar, relax.Tuple(args), held + [-1] * len(out), types)
        )

    def linear(self, step: Linear) -> None:
        rows, _ = rows_and_width(step.counts, step.spec.width)
        counts = self.view(step.counts, [rows, step.spec.width])
        theta = self.view(step.theta, [rows, step.spec.theta_groups])
        is_logits = self.graph.root(self.graph.outputs[0]).same_as(step.out) and not step.spec.residual
        if self.last_only and is_logits and not _is_one(rows):
            counts, theta, rows = self.last_rows(step, counts, theta)
            self.head_is_cut = True
        spec = replace(step.spec, tokens=1 if _is_one(rows) else 0)
        shared = replace(step.spec, residual=False)
        weights, names = self.owner.weights, [str(self.graph.root(w).name) for w in (step.weight, step.scale)]
        args = [
            counts,
            theta,
            weights.var(names[0], PackWeight(shared), ".packed", "int32"),
            weights.var(names[1], PackScale(shared), ".packed"),
        ]
        if step.bias is not None:
            name = str(self.graph.root(step.bias).name)
            args.append(weights.var(name, PackBias(shared), ".packed"))
        if step.residual is not None:
            args.append(self.view(step.residual, [rows, spec.rows]))
        kernel = self.owner.kernel(spec, spike_linear)
        self.data[step.out] = self.call(kernel, args, [([rows, spec.rows], "float32")])

    def last_rows(self, step: Linear, counts: Any, theta: Any) -> tuple[Any, Any, Any]:
        """Counts and thresholds of the last token only."""
        spec = step.spec
        key = LastRow(str(counts.ty.dtype), spec.width, spec.theta_groups)
        out = [([1, spec.width], str(counts.ty.dtype)), ([1, spec.theta_groups], "float32")]
        both = self.call(self.owner.kernel(key, lambda k, _: k.generate()), [counts, theta], out)
        return self.item(both, 0), self.item(both, 1), 1

    def item(self, both: Any, index: int) -> Any:
        return self.builder.emit(relax.TupleGetItem(both, index))

    def encode(self, step: Encode) -> None:
        spec = step.spec
        rows, _ = rows_and_width(_encoded(self.graph, step.out), spec.width)
        strides = {s.tensor: s.stride for s in spec.streams}
        args = [self.view(s, [rows, strides[i]]) for i, s in enumerate(step.sources)]
        vectors = (step.gain, step.shift, step.scale, step.signs)
        args += [self.weight(v) for v in vectors if v is not None]
        args.append(self.owner.weights.limits((step.limits,)))
        spec = replace(spec, tokens=1 if _is_one(rows) else 0)
        groups = spec.width // spec.encoder.group
        out = [([rows, spec.width], spec.encoder.dtype), ([rows, groups], "float32")]
        self.data[step.out] = self.call(self.owner.kernel(spec, spike_encode), args, out)

    def attention(self, step: Attention) -> None:
        heads, spec = step.heads, step.spec
        rows, _ = rows_and_width(
            step.sources[0], max(p.source.stride for p in heads.parts if p.source.tensor == 0)
        )
        tokens = 1 if _is_one(rows) else 0
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

    def generic(self, binding: Any) -> None:
        """A Relax operation on full shapes, or an item of a tuple that a kernel made."""
        value = binding.value
        if isinstance(value, relax.TupleGetItem):
            self.data[binding.var] = self.item(self.data[value.tuple_value], value.index)
            return
        self.launches += 1
        new = self.rebuilt(value)
        if isinstance(binding, relax.MatchCast):
            self.data[binding.var] = self.builder.match_cast(new, binding.ty)
        else:
            self.data[binding.var] = self.builder.emit(new)

    def rebuilt(self, expr: Any) -> Any:
        if is_dimension(expr):
            return expr
        if isinstance(expr, relax.Var):
            known = isinstance(expr.ty, relax.TensorType)
            return self.view(expr, shape_of(expr, "argument")) if known else self.data[self.graph.root(expr)]
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.rebuilt(f) for f in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.rebuilt(expr.tuple_value), expr.index)
        if isinstance(expr, tvm.ir.Call):
            return relax.Call(expr.op, [self.rebuilt(a) for a in expr.args], expr.attrs, expr.ty_args)
        return expr


def _encoded(graph: Graph, out: Any) -> Any:
    return graph.producer[out].args[0]


def _dim(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _is_one(rows: Any) -> bool:
    return isinstance(rows, int) and rows == 1


def _same(var: relax.Var, shape: list[Any]) -> bool:
    return [str(d) for d in shape_of(var, "view")] == [str(d) for d in shape]
