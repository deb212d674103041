"""Reading a model's entry function as a graph: producers, consumers, weights, linears."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from sdc.errors import PassError
from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_dimension, is_op
from sdc.ir.params import Param

__all__ = ["Graph", "Linear", "op_name", "operands"]


@dataclass(frozen=True)
class Linear:
    """One ``sdc.linear``: the variable it defines, and its arguments.

    Attributes:
        var: The output, [..., N].
        x: The input, [..., K].
        weight: Variable of the weight, [N, K].
        bias: Variable of the bias, [N].
        name: The operation's name.
    """

    var: relax.Var
    x: relax.Expr
    weight: relax.Var
    bias: relax.Var | None
    name: str


class Graph:
    """The bindings of the entry function in order, with lookups in both directions.

    Raises:
        PassError: The function has control flow, which no pass here handles.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.function: relax.Function = model.module[model.entry]
        self.num_input = int(self.function.attrs["num_input"])
        self.inputs: list[relax.Var] = list(self.function.params)[: self.num_input]
        self.weights = {var: str(var.name) for var in list(self.function.params)[self.num_input :]}
        self.bindings = [b for block in self.function.body.blocks for b in block.bindings]
        self.result: relax.Expr = self.function.body.body
        for binding in reversed(self.bindings):
            if binding.var.same_as(self.result) and isinstance(binding.value, relax.Var):
                self.result = binding.value  # an output that is only another name
                self.bindings.remove(binding)
        self.producer: dict[relax.Var, relax.Expr] = {}
        self.consumers: dict[relax.Var, list[relax.Var]] = {}
        for binding in self.bindings:
            if isinstance(binding.value, relax.If | relax.Function):
                raise PassError("graph", f"{binding.var.name}: control flow is not supported; unroll it")
            self.producer[binding.var] = binding.value
        outputs = self.producer_of(self.result)
        in_tuple = isinstance(outputs, relax.Tuple)
        self.returned = set(operands(outputs if in_tuple else self.result))
        for binding in self.bindings:
            if in_tuple and binding.var.same_as(self.result):
                continue  # returning a value is not reading it
            for var in dict.fromkeys(operands(binding.value)):
                self.consumers.setdefault(var, []).append(binding.var)

    def weight(self, expr: relax.Expr) -> Param | None:
        """The parameter that ``expr`` is, if it is a weight."""
        name = self.weights.get(expr) if isinstance(expr, relax.Var) else None
        return None if name is None else self.model.params[name]

    def param(self, var: relax.Expr) -> Param:
        """The parameter that ``var`` is.

        Raises:
            PassError: It is no weight.
        """
        param = self.weight(var)
        if param is None:
            raise PassError("graph", f"{var} should be a weight, but is computed or an input")
        return param

    def producer_of(self, expr: relax.Expr) -> Any:
        """The expression bound to a variable; None for parameters and everything else."""
        return self.producer.get(expr) if isinstance(expr, relax.Var) else None

    def users(self, var: relax.Expr) -> list[relax.Expr]:
        """The expressions that read ``var``; the tuple of the function's outputs is not among them."""
        return [self.producer[user] for user in self.consumers.get(var, ())]

    def sole_user(self, var: relax.Expr) -> relax.Var | None:
        """The only variable computed from ``var``; None where there are others, or ``var`` is returned.

        An expression that reads ``var`` twice, such as x * x, counts twice.
        """
        users = self.consumers.get(var, [])
        if len(users) != 1 or var in self.returned:
            return None
        return users[0] if sum(v.same_as(var) for v in operands(self.producer[users[0]])) == 1 else None

    def as_linear(self, var: relax.Expr) -> Linear | None:
        """The linear whose output is ``var``, if it is one."""
        call = self.producer_of(var)
        if not is_op(call, "sdc.linear"):
            return None
        bias = call.args[2] if len(call.args) == 3 else None
        return Linear(var, call.args[0], call.args[1], bias, attributes(call)["name"])

    def linears(self) -> Iterator[Linear]:
        """All linears in order."""
        for binding in self.bindings:
            linear = self.as_linear(binding.var)
            if linear is not None:
                yield linear

    def calls(self, name: str) -> Iterator[tuple[relax.Var, relax.Call]]:
        """Variables and calls of ``relax.<name>`` in order."""
        for binding in self.bindings:
            if is_op(binding.value, name):
                yield binding.var, binding.value


def op_name(call: relax.Call) -> str:
    """The ``name`` attribute of an operation, "" where it has none."""
    return str(attributes(call).get("name", ""))


def operands(expr: Any) -> list[relax.Var]:
    """Variables that an expression reads, in order, repetitions included."""
    if isinstance(expr, relax.Var):
        return [] if is_dimension(expr) else [expr]
    if isinstance(expr, tvm.ir.Call):
        return [v for a in expr.args for v in operands(a)]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in operands(f)]
    if isinstance(expr, relax.TupleGetItem):
        return operands(expr.tuple_value)
    return []
