"""A spiking Relax module as core programs, one token per turn.

The hub core holds the residual stream: it encodes, normalises and adds. Every linear layer's weights lie on
other cores (:mod:`linear`), every KV head's cache on one more (:mod:`attention`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from sdc.errors import TargetError
from sdc.ir.evaluate.symbolic import bind_shape, evaluate_prim
from sdc.ir.model import Model
from sdc.ir.ops import attributes
from sdc.targets.neuro.codegen.builder import ProgramBuilder
from sdc.targets.neuro.codegen.hub import HANDLERS, Hub
from sdc.targets.neuro.codegen.values import Array, Cache, Placement, Position, Value, Weight
from sdc.targets.neuro.isa.program import HOST, Program

__all__ = ["Compiled", "Port", "compile_module"]


@dataclass(frozen=True)
class Port:
    """A vector that the host sends to the hub, or takes from it, for every token.

    Attributes:
        dtype: Of the words: ``int32`` (token ids) or ``float32``.
    """

    name: str
    tag: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Compiled:
    """A program with what the host must know.

    Attributes:
        external: Contents of the external memory, uint8.
        max_seq: Tokens that the caches hold; 0 without caches.
    """

    program: Program
    external: NDArray
    hub: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_seq: int


def compile_module(model: Model, placement: Placement, machine: str = "") -> Compiled:
    """Generates the programs of a spiking model; all symbolic dimensions are 1 (one token, one sequence).

    Raises:
        TargetError: The module holds an operation that the instruction set cannot do; with its name.
    """
    function = model.module[model.entry]
    program = ProgramBuilder(machine)
    hub = Hub(model, program, placement)
    frame = _Frame(hub, function)
    inputs = frame.bind_inputs()
    for block in function.body.blocks:
        for binding in block.bindings:
            frame.bind(binding)
    outputs = frame.send_outputs(function.body.body)
    caches = [value for value in frame.values.values() if isinstance(value, Cache)]
    max_seq = min((cache.shape[2] for cache in caches), default=0)
    return Compiled(program.build(), hub.external(), placement.hub, inputs, outputs, max_seq)


class _Frame:
    """The values of the function's variables."""

    def __init__(self, hub: Hub, function: relax.Function) -> None:
        self.hub = hub
        self.function = function
        self.values: dict[Any, Value] = {}
        self.symbols: dict[Any, int] = {}

    def bind_inputs(self) -> tuple[Port, ...]:
        params = list(self.function.params)
        count = int(self.function.attrs["num_input"])
        ports = []
        for var in params[:count]:
            shape, dtype = self.shape(var), str(var.ty.dtype)
            bind_shape(str(var.name), var.ty, shape, self.symbols)
            if len(shape) == 0 and dtype == "int64":
                self.values[var] = Position()
            elif self.hub.model.info.kind == "decoder" and len(shape) == 4:
                self.values[var] = Cache(str(var.name), shape)
            else:
                ports.append(self.receive(var, shape, dtype))
        for var in params[count:]:
            self.values[var] = Weight(str(var.name), self.shape(var))
        return tuple(ports)

    def receive(self, var: relax.Var, shape: tuple[int, ...], dtype: str) -> Port:
        size = int(np.prod(shape))
        place, tag = self.hub.core.words(size), self.hub.program.tag()
        self.hub.core.note(f"input {var.name}")
        self.hub.core.emit("recvw", place, size, tag, 1)
        self.values[var] = Array(place, shape)
        return Port(str(var.name), tag, shape, "float32" if dtype.startswith("float") else "int32")

    def shape(self, expr: relax.Expr) -> tuple[int, ...]:
        """The static shape; a symbol that has no value yet is 1."""
        values = expr.ty.shape.values
        for dimension in values:
            if isinstance(dimension, tirx.Var):
                self.symbols.setdefault(dimension, 1)
        return tuple(evaluate_prim(dimension, self.symbols) for dimension in values)

    def bind(self, binding: Any) -> None:
        value = binding.value
        if isinstance(binding, relax.MatchCast) or not isinstance(value, relax.Call):
            self.values[binding.var] = self.value(value)
            return
        name = str(value.op.name).removeprefix("relax.") if isinstance(value.op, tvm.ir.Op) else str(value.op)
        handler: Callable[..., Value] | None = HANDLERS.get(name)
        where = attributes(value).get("name") or str(binding.var.name)
        if handler is None:
            raise TargetError(f"{where}: the neuromorphic target has no instruction for {name}")
        args = [self.value(arg) for arg in value.args]
        shape = self.shape(binding.var) if isinstance(binding.var.ty, relax.TensorType) else ()
        self.hub.where = where
        self.values[binding.var] = handler(self.hub, args, attributes(value), shape)

    def value(self, expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(item) for item in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self.value(expr.tuple_value)[expr.index]
        if isinstance(expr, tvm.ir.GenericConst):
            return self.hub.constant(expr.value.numpy())
        if isinstance(expr, relax.ShapeExpr):
            return tuple(evaluate_prim(d, self.symbols) for d in expr.values)
        if isinstance(expr, relax.Var) and expr in self.values:
            return self.values[expr]
        return evaluate_prim(expr, self.symbols)

    def send_outputs(self, result: relax.Expr) -> tuple[Port, ...]:
        values = self.value(result)
        ports = []
        for number, value in enumerate(values if isinstance(values, tuple) else (values,)):
            if isinstance(value, Cache):
                continue  # stays where it is
            if not isinstance(value, Array):
                raise TargetError(f"output {number} of the module is no activation")
            tag = self.hub.program.tag()
            self.hub.core.note(f"output {number}")
            self.hub.core.emit("sendw", value.ref, value.size, self.hub.core.route(tag, HOST), 0)
            ports.append(Port(f"output_{number}", tag, value.shape, "float32"))
        return tuple(ports)
