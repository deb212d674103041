"""Rebuilds a spiking function as calls of fused kernels; what no kernel takes stays a Relax operation.

A target derives from :class:`Body`, which asks it for the kernels of each kind of step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import tvm
from tvm import relax, tirx

from sdc.ir.ops import is_dimension, is_op, shape_of
from sdc.targets.fused.graph import Graph, reads, rows_and_width
from sdc.targets.fused.match import Encode, Linear, match_encode, match_linear
from sdc.targets.fused.match_attention import Attention, match_attention
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.signature import State
from sdc.targets.fused.tables import look_up

__all__ = ["Body", "Rebuild", "Step", "encoded", "is_one"]

Step = Linear | Encode | Attention


class CacheShapes(Protocol):
    """How a target lays out the cache of one layer's keys or values."""

    @property
    def key_shape(self) -> tuple[int, ...]: ...

    @property
    def value_shape(self) -> tuple[int, ...]: ...

    @property
    def theta_shape(self) -> tuple[int, ...]: ...


class Rebuild:
    """Lowers functions into one module, so that equal kernels are shared.

    Args:
        weights: Collects the packed weights.
        body: The target's emitter of one function.
    """

    def __init__(self, weights: PackedWeights, body: type[Body]) -> None:
        self.weights, self.body = weights, body
        self.builder = relax.BlockBuilder()
        self.kernels: dict[Any, tvm.ir.GlobalVar] = {}
        self.states: list[State] = []
        self.launches: dict[str, int] = {}
        self.function = ""  # the one that is being lowered

    def add(
        self,
        name: str,
        function: relax.Function,
        *,
        last_only: bool = False,
        bound: int = 0,
        emitter: type[Body] | None = None,
    ) -> None:
        """Lowers ``function`` under ``name``.

        Args:
            last_only: Only the last token's first output is wanted.
            bound: Largest value of the symbolic sequence length, 0 where there is none.
            emitter: Instead of the target's usual one.
        """
        self.function = name
        body = (emitter or self.body)(self, Graph(function), last_only)
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

    def share(self, spec: Any, make: Callable[[], tirx.PrimFunc]) -> tvm.ir.GlobalVar:
        """The kernel of a specification, made once a module."""
        if spec not in self.kernels:
            self.kernels[spec] = self.builder.add_func(make(), spec.key())
        return self.kernels[spec]


class Body:
    """Emits one function: fused steps by the target's kernels, the rest as Relax operations on full shapes.

    Args:
        owner: Shares kernels and weights between functions.
        graph: The function.
        last_only: Only the last token's first output is wanted.

    Attributes:
        cache_layout: Makes, of key heads, tokens and channels a head, the shapes of a cache.
        key_dtype: Of the keys' bytes.
    """

    cache_layout: Callable[[int, int, int], CacheShapes]
    key_dtype: str

    def __init__(self, owner: Any, graph: Graph, last_only: bool) -> None:
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
        appended = self.appended()
        attentions = [s for s in self.steps.values() if isinstance(s, Attention)]
        written = {v for s in attentions for state in s.states for v in appended.get(state, ())}
        self.outputs = [v for v in graph.outputs if graph.root(v) not in written]
        needed: set[Any] = set()
        work = [graph.root(v) for v in self.outputs]
        work += [s.out for s in attentions]
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

    def appended(self) -> dict[Any, list[Any]]:
        """The kv_append results of every cache: what an attention writes in place."""
        graph, found = self.graph, dict[Any, list[Any]]()
        for binding in graph.bindings:
            call = graph.call(binding.var, "sdc.kv_append")
            if call is not None:
                found.setdefault(call.args[0], []).append(graph.root(binding.var))
        return found

    def layouts(self) -> dict[Any, tuple[tuple[int, ...], str]]:
        """Shape and dtype of the caches that kernels lay out in their own way."""
        found: dict[Any, tuple[tuple[int, ...], str]] = {}
        for step in self.steps.values():
            if isinstance(step, Attention):
                spec = step.spec
                keys = self.cache_layout(spec.kv_heads, spec.slots, spec.width)
                values = self.cache_layout(spec.kv_heads, spec.slots, spec.value_width)
                made = (
                    (keys.key_shape, self.key_dtype),
                    (keys.theta_shape, "float32"),
                    (values.value_shape, "int8"),
                    (values.theta_shape, "float32"),
                )
                found.update(zip(step.states, made, strict=True))
        return found

    def linear(self, step: Linear) -> None:
        """Emits the kernels of a linear into ``self.data[step.out]``."""
        raise NotImplementedError

    def encode(self, step: Encode) -> None:
        """Emits the kernels of an encoder into ``self.data[step.out]``."""
        raise NotImplementedError

    def attention(self, step: Attention) -> None:
        """Emits the kernels of an attention into ``self.data[step.out]``."""
        raise NotImplementedError

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
        if is_one(rows):
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

    def item(self, both: Any, index: int) -> Any:
        return self.builder.emit(relax.TupleGetItem(both, index))

    def generic(self, binding: Any) -> None:
        """A Relax operation on full shapes, or an item of a tuple that a kernel made."""
        value = binding.value
        if isinstance(value, relax.TupleGetItem):
            self.data[binding.var] = self.item(self.data[value.tuple_value], value.index)
            return
        self.launches += 1
        rows = self.byte_rows(value)
        if rows is not None:
            self.data[binding.var] = rows
            return
        new = self.rebuilt(value)
        if isinstance(binding, relax.MatchCast):
            self.data[binding.var] = self.builder.match_cast(new, binding.ty)
        else:
            self.data[binding.var] = self.builder.emit(new)

    def byte_rows(self, value: Any) -> Any:
        """Rows of a table that is stored as bytes; None for anything else."""
        if not is_op(value, "take"):
            return None
        return look_up(self.builder, self.owner.weights, self.graph, value, self.rebuilt(value.args[1]))

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


def encoded(graph: Graph, out: Any) -> Any:
    """What the encoder that made ``out`` encodes."""
    return graph.producer[out].args[0]


def _dim(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def is_one(rows: Any) -> bool:
    """Whether there is exactly one row, known when compiling."""
    return isinstance(rows, int) and rows == 1


def _same(var: relax.Var, shape: list[Any]) -> bool:
    return [str(d) for d in shape_of(var, "view")] == [str(d) for d in shape]
