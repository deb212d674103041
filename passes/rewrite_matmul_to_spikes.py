"""Rewrite MatMul to spikes: every dense product becomes encoding and integer accumulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from sdc.errors import NumericsError, PassError, PostconditionError
from sdc.ir.model import Encoding, Model
from sdc.ir.ops import (
    attributes,
    is_op,
    kv_append,
    readout,
    shape_of,
    spike_accumulate,
    spike_attention,
    spike_encode,
    spike_matmul,
    static,
)
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph, op_name
from sdc.passes.quantise_weights import integer_params
from sdc.passes.quantisers.rtn import integer_range
from sdc.passes.rewriter import Rewriter, rewrite

__all__ = ["RewriteMatmulToSpikes"]

FLOAT_PRODUCTS = ("sdc.linear", "sdc.attention", "matmul")


class RewriteMatmulToSpikes:
    """``sdc.linear``, ``sdc.attention`` and ``R.matmul`` become spikes (gamma-SQP, arXiv 2604.16475).

    - A linear: ``spike_encode``, ``spike_accumulate`` over integer weights, ``readout``.
    - An attention: queries are encoded per head; keys and values are encoded *before* they enter the cache,
      which is kept as counts (int8) and thresholds (float32), two inputs where there was one.
    - A product of two activations: both are encoded along the axis that is summed.

    Each accumulator is proved not to overflow: levels * max|w| * group < 2^31.
    """

    name = "rewrite-matmul-to-spikes"

    def run(self, model: Model, ctx: PassContext) -> Model:
        graph = Graph(model)
        state = _Rewrite(model, graph, ctx)
        return rewrite(model, state.visit, graph=graph, inputs=state.new_inputs, prepare=state.split_caches)

    def check(self, model: Model, ctx: PassContext) -> None:
        for binding in Graph(model).bindings:
            for op in FLOAT_PRODUCTS:
                if is_op(binding.value, op):
                    raise PostconditionError(self.name, f"a {op} is left: {op_name(binding.value)}")


class _Rewrite:
    def __init__(self, model: Model, graph: Graph, ctx: PassContext) -> None:
        self.model, self.graph, self.options = model, graph, ctx.options
        self.caches = {call.args[0] for _, call in graph.calls("sdc.kv_append")}
        self.split: dict[relax.Var, tuple[relax.Var, relax.Var]] = {}
        self.new_inputs: list[relax.Var] = []
        for var in graph.inputs:
            self.new_inputs += self._inputs(var)
        self.owner: dict[relax.Var, str] = {}
        for _, call in graph.calls("sdc.attention"):
            for index, kind in ((1, "k"), (2, "v")):
                self.owner[call.args[index]] = f"{op_name(call)}:{kind}"
        self.encoded: dict[tuple[Any, Encoding], tuple[relax.Expr, relax.Expr]] = {}
        self.products = 0

    def _inputs(self, var: relax.Var) -> list[relax.Var]:
        if var not in self.caches:
            return [var]
        shape, name = shape_of(var, "kv_append"), str(var.name)
        counts = relax.Var(name, relax.TensorType(_dims(shape), "int8"))
        theta = relax.TensorType(_dims([*shape[:3], 1]), "float32")
        self.split[var] = (counts, relax.Var(name.replace("cache", "theta"), theta))
        return list(self.split[var])

    def split_caches(self, rewriter: Rewriter) -> None:
        for old, (counts, theta) in self.split.items():
            rewriter.remap(old, relax.Tuple([counts, theta]))

    def visit(self, rewriter: Rewriter, var: relax.Var, expr: relax.Expr) -> relax.Expr | None:
        if isinstance(expr, relax.Tuple):
            return _flat(rewriter.new(expr))
        if is_op(expr, "sdc.linear"):
            return self.linear(rewriter, expr)
        if is_op(expr, "sdc.kv_append"):
            return self.append(rewriter, var, expr)
        if is_op(expr, "sdc.attention"):
            return self.attention(rewriter, expr)
        if is_op(expr, "matmul"):
            return self.matmul(rewriter, expr)
        return None

    def linear(self, rewriter: Rewriter, call: relax.Call) -> relax.Expr:
        name = op_name(call)
        encoding = self.encoding(name)
        x = rewriter.new(call.args[0])
        counts, theta = self.encode(rewriter, x, encoding, name)
        weight, scale = integer_params(self.graph.param(call.args[1]), name)
        width = weight.shape[1]
        group = min(encoding.group or width, encoding.weight_group or width)
        _prove_exact(name, encoding, group)
        acc = rewriter.emit(
            spike_accumulate(
                counts,
                rewriter.weight(weight),
                group=group,
                weight_bits=encoding.weight_bits,
                name=name,
            )
        )
        bias = rewriter.new(call.args[2]) if len(call.args) > 2 else None
        return readout(acc, theta, rewriter.weight(scale), bias)

    def append(self, rewriter: Rewriter, var: relax.Var, call: relax.Call) -> relax.Expr:
        name = self.owner.get(var)
        if name is None:
            raise PassError("rewrite-matmul-to-spikes", f"the cache {var.name} is read by no attention")
        counts, theta = self.encode(rewriter, rewriter.new(call.args[1]), self.encoding(name), name)
        old = rewriter.new(call.args[0])
        position = rewriter.new(call.args[2])
        return relax.Tuple(
            [
                rewriter.emit(kv_append(old.fields[0], counts, position)),
                rewriter.emit(kv_append(old.fields[1], theta, position)),
            ]
        )

    def attention(self, rewriter: Rewriter, call: relax.Call) -> relax.Expr:
        attrs, name = attributes(call), op_name(call)
        query = self.encode(rewriter, rewriter.new(call.args[0]), self.encoding(f"{name}:q"), f"{name}:q")
        pairs = []
        for index, kind in ((1, "k"), (2, "v")):
            operand = rewriter.new(call.args[index])
            if isinstance(operand, relax.Tuple):
                pairs.append((operand.fields[0], operand.fields[1]))
            else:
                label = f"{name}:{kind}"
                pairs.append(self.encode(rewriter, operand, self.encoding(label), label))
        rest = [rewriter.new(a) for a in call.args[3:]]
        probabilities = self.encoding(f"{name}:p")
        return spike_attention(
            query,
            pairs[0],
            pairs[1],
            *rest,
            scale=attrs["scale"],
            causal=attrs["causal"],
            window=attrs["window"],
            softcap=attrs["softcap"],
            levels=probabilities.levels,
            coding=probabilities.coding,
            name=name,
        )

    def matmul(self, rewriter: Rewriter, call: relax.Call) -> relax.Expr:
        self.products += 1
        name = f"matmul.{self.products}"
        a, b = (rewriter.new(x) for x in call.args)
        rank = len(shape_of(b, "spike_matmul"))
        if rank < 2 or len(shape_of(a, "spike_matmul")) != rank:
            raise PassError("rewrite-matmul-to-spikes", f"{name}: operands of different rank")
        last = [*range(rank - 2), rank - 1, rank - 2]
        turned = rewriter.emit(relax.op.permute_dims(b, last))
        encoding = Encoding(levels=self.options.kv_levels, coding=self.options.coding, group=0)
        left = self.encode(rewriter, a, encoding, f"{name}:a")
        return spike_matmul(left, self.encode(rewriter, turned, encoding, f"{name}:b"), name=name)

    def encoding(self, name: str) -> Encoding:
        if name not in self.model.encodings:
            raise PassError("rewrite-matmul-to-spikes", f"{name} has no encoding; run calibrate first")
        return self.model.encodings[name]

    def encode(
        self, rewriter: Rewriter, x: relax.Expr, encoding: Encoding, name: str
    ) -> tuple[relax.Expr, relax.Expr]:
        """Counts and thresholds of x; the same input in the same encoding is encoded once."""
        key = (x, encoding)
        if key not in self.encoded:
            width = static(shape_of(x, "spike_encode")[-1], "spike_encode", "the channel count")
            call = spike_encode(
                x,
                levels=encoding.levels,
                group=encoding.group or width,
                clip_ratio=encoding.clip_ratio,
                dead_zone=encoding.dead_zone,
                floor=encoding.floor,
                coding=encoding.coding,
                name=name,
            )
            both = rewriter.emit(call)
            self.encoded[key] = (
                rewriter.emit(relax.TupleGetItem(both, 0)),
                rewriter.emit(relax.TupleGetItem(both, 1)),
            )
        return self.encoded[key]


def _prove_exact(name: str, encoding: Encoding, group: int) -> None:
    bound = encoding.levels * -integer_range(encoding.weight_bits)[0] * group
    if bound >= 2**31:
        raise NumericsError(
            name, f"sums of up to {bound} do not fit an int32 accumulator; use smaller groups or fewer levels"
        )


def _flat(result: relax.Expr) -> relax.Expr:
    if not isinstance(result, relax.Tuple):
        return result
    fields: list[relax.Expr] = []
    for field in result.fields:
        fields += list(field.fields) if isinstance(field, relax.Tuple) else [field]
    return relax.Tuple(fields)


def _dims(shape: list[Any]) -> list[Any]:
    return [tvm.tirx.IntImm("int64", d) if isinstance(d, int | np.integer) else d for d in shape]
