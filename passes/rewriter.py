"""Rebuilding a model's entry function binding by binding, with weights added and dropped on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from sdc.ir.model import Model
from sdc.ir.ops import is_dimension
from sdc.ir.params import Param
from sdc.passes.graph import Graph, operands

__all__ = ["Rewriter", "rewrite"]

_RESULT = "result"
Visit = Callable[["Rewriter", relax.Var, relax.Expr], relax.Expr | None]


def rewrite(
    model: Model,
    visit: Visit,
    *,
    graph: Graph | None = None,
    inputs: Sequence[relax.Var] | None = None,
    prepare: Callable[[Rewriter], None] | None = None,
) -> Model:
    """Rebuilds the entry function of a model.

    What nothing reads any more is dropped, weights included; weights stand in the order of their first use.
    Variables keep their name hints, except for the builder's own numbers.

    Args:
        model: The model to rewrite (it stays as it is).
        visit: Called for every binding with the rewriter, the *old* variable and the *old* expression;
            returns the expression to bind instead (built on new variables, see :meth:`Rewriter.new`), or None
            to copy the old one.
        graph: The graph of ``model``, if the caller has it.
        inputs: New run-time inputs, where a pass changes them; the old ones among them stay themselves.
        prepare: Called before the first binding, to :meth:`Rewriter.remap` inputs or weights.
    """
    rewriter = Rewriter(graph or Graph(model), inputs)
    if prepare is not None:
        prepare(rewriter)
    return _with_wanted_names(rewriter.run(visit), rewriter)


def _with_wanted_names(model: Model, rewriter: Rewriter) -> Model:
    """Drops numbers from the names of weights whose namesakes turned out to be read by nothing."""
    renames: dict[str, str] = {}
    for name in model.params:
        wanted = rewriter.wanted[name]
        if wanted not in model.params and wanted not in renames.values():
            renames[name] = wanted
    if not renames:
        return model
    graph = Graph(model)

    def rename(again: Rewriter) -> None:
        for var, name in graph.weights.items():
            if name in renames:
                again.remap(var, again.weight(model.params[name].renamed(renames[name])))

    return rewrite(model, lambda *_: None, graph=graph, prepare=rename)


class Rewriter:
    """The state of one :func:`rewrite`: the new bindings so far, and what old variables have become."""

    def __init__(self, graph: Graph, inputs: Sequence[relax.Var] | None = None) -> None:
        self.graph = graph
        self.model = graph.model
        self.builder = relax.BlockBuilder()
        self.inputs = list(graph.inputs if inputs is None else inputs)
        self.params: dict[str, Param] = {}
        self.wanted: dict[str, str] = {}
        self._weights: dict[str, relax.Var] = {}
        self._remap: dict[relax.Var, relax.Expr] = {var: var for var in self.inputs}

    def run(self, visit: Visit) -> Model:
        """Visits every binding in order and returns the rebuilt model."""
        self.builder.begin_scope(self.inputs)
        self.builder._begin_dataflow_block()
        for binding in self.graph.bindings:
            value = visit(self, binding.var, binding.value)
            if value is None:
                value = self.copy(binding)
            self._remap[binding.var] = self._bind(binding.var, value)
        result = self.new(self.graph.result)
        if isinstance(result, relax.DataflowVar) or not isinstance(result, relax.Var):
            result = self.builder.emit_output(result, _RESULT)
        block = self.builder._end_block()
        self.builder.end_scope()
        return self._finish(block, result)

    def new(self, expr: Any) -> Any:
        """An old expression with every old variable replaced by what it has become."""
        if isinstance(expr, relax.Var):
            return expr if is_dimension(expr) else self._variable(expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.new(f) for f in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            of = self.new(expr.tuple_value)
            if isinstance(of, relax.Tuple):
                return of.fields[expr.index]
            return relax.TupleGetItem(of, expr.index)
        if isinstance(expr, tvm.ir.Call):
            return relax.Call(expr.op, [self.new(a) for a in expr.args], expr.attrs, expr.ty_args)
        return expr

    def copy(self, binding: Any) -> relax.Expr:
        """The old right-hand side on new variables."""
        value = self.new(binding.value)
        if isinstance(binding, relax.MatchCast):
            return self.builder.match_cast(value, binding.ty, _hint(binding.var))
        return value

    def emit(self, expr: relax.Expr, name_hint: str = "") -> relax.Var:
        """Binds an expression to a new variable."""
        return self.builder.emit(expr, name_hint)

    def remap(self, old: relax.Var, new: relax.Expr) -> None:
        """Says what an old input or weight has become (bindings say so by what ``visit`` returns)."""
        self._remap[old] = new

    def value_of(self, new: relax.Expr) -> Any:
        """The expression bound to a *new* variable; None for parameters and everything else."""
        return self.builder.lookup_binding(new) if isinstance(new, relax.Var) else None

    def param_of(self, new: relax.Expr) -> Param | None:
        """The parameter that a *new* variable is, under the name it was given; None if it is no weight."""
        name = str(new.name) if isinstance(new, relax.Var) else ""
        if name not in self._weights or not self._weights[name].same_as(new):
            return None
        return self.params[name].renamed(self.wanted[name])

    def weight(self, param: Param) -> relax.Var:
        """A weight of the new function. A name that another live tensor has gets a number appended."""
        name, number = param.name, 1
        while name in self.params and self.params[name] != param.renamed(name):
            number += 1
            name = f"{param.name}.{number}"
        if name not in self.params:
            self.params[name] = param.renamed(name)
            self.wanted[name] = param.name
            self._weights[name] = relax.Var(name, relax.TensorType(list(param.shape), param.dtype))
        return self._weights[name]

    def _variable(self, var: relax.Var) -> relax.Expr:
        if var not in self._remap and var in self.graph.weights:
            self._remap[var] = self.weight(self.model.params[self.graph.weights[var]])
        return self._remap[var]

    def _bind(self, old: relax.Var, value: relax.Expr) -> relax.Expr:
        """Atoms pass on as they are; everything else gets a variable."""
        if isinstance(value, relax.Var | relax.Tuple | tvm.ir.GenericConst | relax.ShapeExpr):
            return value
        if old.same_as(self.graph.result):
            return self.builder.emit_output(value, _RESULT)
        return self.emit(value, _hint(old))

    def _finish(self, block: Any, result: relax.Var) -> Model:
        """Drops dead bindings and weights, orders weights by first use, and replaces the function."""
        live, bindings = {result}, []
        for binding in reversed(list(block.bindings)):
            if binding.var in live or isinstance(binding, relax.MatchCast):
                bindings.append(binding)
                live.update(operands(binding.value))
        bindings.reverse()
        of_weight = {var: name for name, var in self._weights.items()}
        used = dict.fromkeys(v for b in bindings for v in operands(b.value) if v in of_weight)
        params, old = [*self.inputs, *used], self.graph.function
        self.builder.begin_scope(params)
        body = self.builder.normalize(relax.SeqExpr([relax.DataflowBlock(bindings)], result))
        self.builder.end_scope()
        function = relax.Function(params, body, is_pure=bool(old.is_pure), attrs=old.attrs)
        function = function.with_attr("num_input", len(self.inputs))
        module = self.model.module.clone()
        module.update_func(module.get_global_var(self.model.entry), function)
        return replace(
            self.model, module=module, params={of_weight[v]: self.params[of_weight[v]] for v in used}
        )


def _hint(old: relax.Var) -> str:
    """The name for what ``old`` becomes: none (the builder numbers anew) where it had only a number."""
    name = str(old.name)
    return "" if name.rstrip("0123456789") in ("lv", "gv") else name
