"""Canonicalise: one form for what exporters write in many ways, so that later passes match on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm_ffi import structural_equal

from sdc.errors import PostconditionError
from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_op, linear, shape_of
from sdc.ir.params import ArraySource, Cast, Param, Permute, Reshape, Transpose, array_param
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph, op_name
from sdc.passes.rewriter import Rewriter, rewrite

__all__ = ["Canonicalise"]

_NAMED = ("sdc.linear", "sdc.attention")


class Canonicalise:
    """Products with a weight become ``sdc.linear``; reshapes, identities and casts fold; duplicates merge.

    Weights that are reshaped, permuted or cast take that as a lazy transform; tensors that stand as constants
    in the graph become weights. Biases go into their linears, reshapes that keep the channels go behind them.
    Every linear and attention gets a name of its own. Not handled: products whose left side is the weight,
    and batched weights (rank above 2); they stay ``R.matmul``.
    """

    name = "canonicalise"

    def run(self, model: Model, ctx: PassContext) -> Model:
        model = _Simplifier(model).run()
        return _fold_biases(model)

    def check(self, model: Model, ctx: PassContext) -> None:
        graph, names = Graph(model), set[str]()
        for var, call in graph.calls("matmul"):
            weight = graph.weight(call.args[1])
            if weight is not None and len(weight.shape) == 2:
                raise PostconditionError(self.name, f"{var.name}: a product with {weight.name} is left")
        for binding in graph.bindings:
            if any(is_op(binding.value, kind) for kind in _NAMED):
                name = op_name(binding.value)
                if not name or name in names:
                    raise PostconditionError(self.name, f'{binding.var.name}: "{name}" is no name of its own')
                names.add(name)


class _Simplifier:
    """One sweep over the bindings; rules see operands that are simplified already."""

    def __init__(self, model: Model) -> None:
        self.graph = Graph(model)
        self.names: set[str] = set()
        self.constants: dict[tuple[Any, ...], Param] = {}

    def run(self) -> Model:
        return rewrite(self.graph.model, self.visit, graph=self.graph, prepare=self.merge_duplicates)

    def merge_duplicates(self, rewriter: Rewriter) -> None:
        """Weights that are the same steps from the same source become one."""
        first: dict[Any, relax.Var] = {}
        for var, name in self.graph.weights.items():
            param = self.graph.model.params[name]
            source = param.source
            origin = ("array", id(source.array)) if isinstance(source, ArraySource) else source
            kept = first.setdefault((origin, param.transforms, param.shape, param.dtype), var)
            if not kept.same_as(var):
                rewriter.remap(var, rewriter.new(kept))

    def visit(self, rewriter: Rewriter, var: relax.Var, old: relax.Expr) -> relax.Expr | None:
        if not isinstance(old, tvm.ir.Call) or not isinstance(old.op, tvm.ir.Op):
            return None
        call = self.lift_constants(rewriter, rewriter.new(old))
        name = str(call.op.name).removeprefix("relax.")
        for rule in _RULES.get(name, ()):
            result = rule(rewriter, call)
            if result is not None:
                return self.named(result)
        return self.named(call)

    def lift_constants(self, rewriter: Rewriter, call: relax.Call) -> relax.Call:
        """Float tensors that stand in the graph become weights; scalars and indices stay."""
        args = [self.lifted(rewriter, a) for a in call.args]
        return relax.Call(call.op, args, call.attrs, call.ty_args)

    def lifted(self, rewriter: Rewriter, arg: relax.Expr) -> relax.Expr:
        if not isinstance(arg, tvm.ir.GenericConst):
            return arg
        array = arg.value.numpy()
        if array.size <= 1 or not np.issubdtype(array.dtype, np.floating):
            return arg
        key = (array.shape, str(array.dtype), array.tobytes())
        if key not in self.constants:
            self.constants[key] = array_param(f"constant.{len(self.constants)}", array)
        return rewriter.weight(self.constants[key])

    def named(self, expr: relax.Expr) -> relax.Expr:
        """Gives an operation that has no name, or one that is taken, a new one."""
        if not any(is_op(expr, kind) for kind in _NAMED):
            return expr
        attrs = attributes(expr)
        stem = attrs["name"] or str(expr.op.name).rpartition(".")[2]
        name, number = stem, 1
        while name in self.names:
            number += 1
            name = f"{stem}.{number}"
        self.names.add(name)
        if name == attrs["name"]:
            return expr
        return relax.Call(expr.op, expr.args, tvm.ir.make_node("ir.DictAttrs", **{**attrs, "name": name}))


def _fold_weight(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """reshape / permute_dims / expand_dims / squeeze / astype of a weight: a step of the weight."""
    param = rewriter.param_of(call.args[0])
    if param is None:
        return None
    result = rewriter.builder.normalize(call)
    shape = tuple(shape_of(result, "canonicalise"))
    if is_op(call, "permute_dims"):
        axes = attributes(call)["axes"] or list(reversed(range(len(param.shape))))
        return rewriter.weight(_permuted(param, tuple(int(a) for a in axes)))
    if is_op(call, "astype"):
        dtype = str(result.ty.dtype)
        return rewriter.weight(param.then(Cast(dtype), dtype=dtype))
    return rewriter.weight(param if shape == param.shape else param.then(Reshape(shape)))


def _permuted(param: Param, axes: tuple[int, ...]) -> Param:
    if axes == tuple(range(len(axes))):
        return param
    return _transposed(param) if axes == (1, 0) else param.then(Permute(axes))


def _transposed(param: Param) -> Param:
    """The transposed matrix; two transpositions cancel."""
    if param.transforms and param.transforms[-1] in (Transpose(), Permute((1, 0))):
        return replace(param, shape=param.shape[::-1], transforms=param.transforms[:-1])
    return param.then(Transpose())


def _fold_reshape(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """reshape to the same shape: nothing; reshape of a reshape: one reshape."""
    source = rewriter.value_of(call.args[0])
    if is_op(source, "reshape"):
        call = relax.op.reshape(source.args[0], rewriter.builder.normalize(call).ty.shape)
        return call.args[0] if _same_type(rewriter, call) else call
    return call.args[0] if _same_type(rewriter, call) else None


def _fold_permute(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """permute_dims of a permute_dims: one; in the given order: nothing."""
    rank = len(shape_of(call.args[0], "canonicalise"))
    axes = [int(a) for a in attributes(call)["axes"] or reversed(range(rank))]
    source = rewriter.value_of(call.args[0])
    if is_op(source, "permute_dims"):
        inner = attributes(source)["axes"] or list(reversed(range(rank)))
        axes = [int(inner[a]) for a in axes]
        call = relax.op.permute_dims(source.args[0], axes)
    elif axes != list(range(rank)):
        return None
    return call.args[0] if axes == list(range(rank)) else call


def _fold_same_type(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """A cast to the same dtype, a broadcast to the same shape: nothing."""
    return call.args[0] if _same_type(rewriter, call) else None


def _fold_neutral(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """x + 0, x - 0, x * 1, x / 1 with a scalar constant: x."""
    neutral = 0.0 if is_op(call, "add") or is_op(call, "subtract") else 1.0
    commutes = is_op(call, "add") or is_op(call, "multiply")
    for keep, drop in ((0, 1), (1, 0))[: 2 if commutes else 1]:
        constant = call.args[drop]
        if not isinstance(constant, tvm.ir.GenericConst) or constant.value.numpy().size != 1:
            continue
        same = structural_equal(rewriter.builder.normalize(call).ty, call.args[keep].ty)
        if same and float(constant.value.numpy().reshape(())) == neutral:
            return call.args[keep]
    return None


def _lift_matmul(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """matmul(x, weight [K, N]): a linear whose weight is [N, K]."""
    param = rewriter.param_of(call.args[1])
    if param is None or len(param.shape) != 2 or rewriter.param_of(call.args[0]) is not None:
        return None
    weight = rewriter.weight(_transposed(param))
    product = linear(call.args[0], weight, name=param.name.removesuffix(".weight"))
    sunk = _sink_reshape(rewriter, product)
    return product if sunk is None else sunk


def _sink_reshape(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """linear(reshape(x)) with the channels kept: reshape(linear(x)), so that the linear sees x itself."""
    source = rewriter.value_of(call.args[0])
    if not is_op(source, "reshape"):
        return None
    before, after = source.args[0], shape_of(call.args[0], "linear")
    shape = shape_of(before, "linear")
    if not shape or not isinstance(shape[-1], int) or shape[-1] != after[-1]:
        return None
    weight, *bias = call.args[1:]
    product = rewriter.emit(linear(before, weight, *bias, name=op_name(call)))
    rows = shape_of(weight, "linear")[0]
    return product if len(shape) == len(after) == 1 else relax.op.reshape(product, [*after[:-1], rows])


def _same_type(rewriter: Rewriter, call: relax.Call) -> bool:
    return bool(structural_equal(rewriter.builder.normalize(call).ty, call.args[0].ty))


Rule = Callable[[Rewriter, relax.Call], relax.Expr | None]
_RULES: dict[str, tuple[Rule, ...]] = {
    "reshape": (_fold_weight, _fold_reshape),
    "permute_dims": (_fold_weight, _fold_permute),
    "expand_dims": (_fold_weight,),
    "squeeze": (_fold_weight,),
    "astype": (_fold_weight, _fold_same_type),
    "broadcast_to": (_fold_same_type,),
    "add": (_fold_neutral,),
    "subtract": (_fold_neutral,),
    "multiply": (_fold_neutral,),
    "divide": (_fold_neutral,),
    "matmul": (_lift_matmul,),
    "sdc.linear": (_sink_reshape,),
}


def _fold_biases(model: Model) -> Model:
    """add(linear, weight [N]) where nothing else reads the linear: the linear's bias."""
    graph = Graph(model)

    def visit(rewriter: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not is_op(value, "add"):
            return None
        for product, bias in (value.args, reversed(value.args)):
            node, param = graph.as_linear(product), graph.weight(bias)
            if node is None or param is None or node.bias is not None or graph.sole_user(product) is None:
                continue
            width = shape_of(node.weight, "linear")[0]
            if param.dtype == "float32" and param.shape == (*[1] * (len(param.shape) - 1), width):
                flat = param if len(param.shape) == 1 else param.then(Reshape((width,)))
                x, weight = rewriter.new(node.x), rewriter.new(node.weight)
                return linear(x, weight, rewriter.weight(flat), name=node.name)
        return None

    return rewrite(model, visit, graph=graph)
