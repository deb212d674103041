"""A spiking Relax module as core programs, one token per turn.

Vector cores (:mod:`vector`) hold activations: they encode, normalise and add, one core for each stretch
between two linear layers. A linear layer's weights lie on cores of their own (:mod:`linear`), a KV head's
cache on some more (:mod:`attention`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from sdc.errors import TargetError
from sdc.ir.evaluate.symbolic import bind_shape, evaluate_prim
from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_op
from sdc.targets.neuro.codegen.builder import ProgramBuilder
from sdc.targets.neuro.codegen.handlers import HANDLERS, emit_readout
from sdc.targets.neuro.codegen.signature import Port, Probe
from sdc.targets.neuro.codegen.values import (
    Array,
    Cache,
    Input,
    Pending,
    Placement,
    Position,
    Sent,
    Value,
    Weight,
)
from sdc.targets.neuro.codegen.vector import VectorCores
from sdc.targets.neuro.isa.program import HOST, Program

__all__ = ["Compiled", "compile_module"]


@dataclass(frozen=True)
class Compiled:
    """A program with what the host must know.

    Attributes:
        external: Contents of the external memory, uint8; the host's where the machine has none.
        probes: Where counts are made, in the order of the module's operations.
        max_seq: Tokens that the caches hold; 0 without caches.
    """

    program: Program
    external: NDArray
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    probes: tuple[Probe, ...]
    max_seq: int


def compile_module(model: Model, placement: Placement, machine: str = "") -> Compiled:
    """Generates the programs of a spiking model; all symbolic dimensions are 1 (one token, one sequence).

    Raises:
        TargetError: The module holds an operation that the instruction set cannot do; with its name.
    """
    function = model.module[model.entry]
    program = ProgramBuilder(machine)
    cores = VectorCores(model, program, placement)
    frame = _Frame(cores, function)
    frame.bind_inputs()
    frame.bind_body()
    max_seq = min((v.shape[2] for v in frame.values.values() if isinstance(v, Cache)), default=0)
    external = cores.finish()
    outputs = sorted(cores.outputs, key=lambda port: int(port.name.removeprefix("output_")))
    ports = tuple(cores.inputs), tuple(outputs)
    return Compiled(program.build(), external, *ports, tuple(cores.probes), max_seq)


class _Frame:
    """The values of the function's variables, each until its last use."""

    def __init__(self, cores: VectorCores, function: relax.Function) -> None:
        self.cores = cores
        self.function = function
        self.bindings = [binding for block in function.body.blocks for binding in block.bindings]
        self.results, tail = self._results()
        self.inner = {var for b in self.bindings if b.var not in tail for var in _used(b.value)}
        self.values: dict[Any, Value] = {}
        self.symbols: dict[Any, int] = {}
        self.stretches = self._stretches()

    def _results(self) -> tuple[tuple[Any, ...], set[Any]]:
        """The expressions that the function returns, and the variables that only name these."""
        value, tail = self.function.body.body, set()
        bound = {binding.var: binding.value for binding in self.bindings}
        while isinstance(value, relax.Var) and isinstance(bound.get(value), relax.Var | relax.Tuple):
            tail.add(value)
            value = bound[value]
        return (tuple(value.fields) if isinstance(value, relax.Tuple) else (value,)), tail

    def _stretches(self) -> list[tuple[int, str]]:
        """Each encoder's index, ascending, with the linear layer that is the first to use its counts."""
        made = {binding.var: (number, binding.value) for number, binding in enumerate(self.bindings)}
        found: dict[int, str] = {}
        for binding in self.bindings:
            if is_op(binding.value, "sdc.spike_accumulate"):
                number = _encoder(binding.value.args[0], made)
                found.setdefault(number, str(attributes(binding.value)["name"]))
        return sorted(found.items())

    def bind_inputs(self) -> None:
        params = list(self.function.params)
        count = int(self.function.attrs["num_input"])
        for var in params[:count]:
            shape, dtype = self.shape(var), str(var.ty.dtype)
            bind_shape(str(var.name), var.ty, shape, self.symbols)
            if len(shape) == 0 and dtype == "int64":
                self.values[var] = Position()
            elif self.cores.model.info.kind == "decoder" and len(shape) == 4:
                self.values[var] = Cache(str(var.name), shape)
            else:
                words = "float32" if dtype.startswith("float") else "int32"
                self.values[var] = Input(str(var.name), shape, words)
        for var in params[count:]:
            self.values[var] = Weight(str(var.name), self.shape(var))

    def bind_body(self) -> None:
        last = {var: number for number, binding in enumerate(self.bindings) for var in _used(binding.value)}
        dying: dict[int, list[Any]] = {}
        for number, binding in enumerate(self.bindings):
            dying.setdefault(last.get(binding.var, number), []).append(binding.var)
        kept = {var for result in self.results for var in _used(result)}
        self.cores.next_stretch(self.upcoming(-1))
        for number, binding in enumerate(self.bindings):
            self.bind(number, binding)
            for var in dying.get(number, ()):
                if var not in kept:
                    self.cores.drop(self.values[var])
        for number, result in enumerate(self.results):
            value = self.value(result)
            if not isinstance(value, Cache | Sent):  # caches stay where they are
                array = value if isinstance(value, Array) else self.cores.array(value)
                self.cores.send_output(f"output_{number}", array)

    def upcoming(self, number: int) -> str:
        """The first linear layer whose encoder comes after a binding."""
        return next((name for encoder, name in self.stretches if encoder > number), "")

    def shape(self, expr: relax.Expr) -> tuple[int, ...]:
        """The static shape; a symbol that has no value yet is 1."""
        values = expr.ty.shape.values
        for dimension in values:
            if isinstance(dimension, tirx.Var):
                self.symbols.setdefault(dimension, 1)
        return tuple(evaluate_prim(dimension, self.symbols) for dimension in values)

    def bind(self, number: int, binding: Any) -> None:
        value = binding.value
        if isinstance(binding, relax.MatchCast) or not isinstance(value, relax.Call):
            made = self.value(value)
        else:
            made = self.call(number, binding.var, value)
        self.values[binding.var] = made
        self.cores.hold(made)

    def call(self, number: int, var: relax.Var, call: relax.Call) -> Value:
        name = str(call.op.name).removeprefix("relax.") if isinstance(call.op, tvm.ir.Op) else str(call.op)
        handler: Callable[..., Value] | None = HANDLERS.get(name)
        where = attributes(call).get("name") or str(var.name)
        if handler is None:
            raise TargetError(f"{where}: the neuromorphic target has no instruction for {name}")
        args = [self.value(arg) for arg in call.args]
        shape = self.shape(var) if isinstance(var.ty, relax.TensorType) else ()
        self.cores.where = where
        if isinstance(args[0], Pending):
            if self.only_output(var):
                return self.send_readout(var, args, shape)
            if self.cores.works_on(args[0].counts.core):
                self.cores.next_stretch(self.upcoming(number))
        return handler(self.cores, args, attributes(call), shape)

    def only_output(self, var: relax.Var) -> bool:
        """Whether nothing in the module uses a variable, but the host does, once."""
        return var not in self.inner and sum(var.same_as(result) for result in self.results) == 1

    def send_readout(self, var: relax.Var, args: list[Any], shape: tuple[int, ...]) -> Sent:
        """The cores of the layer's weights send the results to the host themselves."""
        result = emit_readout(self.cores, args, HOST)
        number = next(n for n, wanted in enumerate(self.results) if var.same_as(wanted))
        port = Port(f"output_{number}", HOST, result.tag, shape, "float32", result.sources)
        self.cores.outputs.append(port)
        return Sent()

    def value(self, expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(item) for item in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self.value(expr.tuple_value)[expr.index]
        if isinstance(expr, tvm.ir.GenericConst):
            return self.cores.constant(expr.value.numpy())
        if isinstance(expr, relax.ShapeExpr):
            return tuple(evaluate_prim(d, self.symbols) for d in expr.values)
        if isinstance(expr, relax.Var) and expr in self.values:
            return self.values[expr]
        return evaluate_prim(expr, self.symbols)


def _used(expr: Any) -> Iterator[Any]:
    """The variables in an expression."""
    if isinstance(expr, relax.Var):
        yield expr
    elif isinstance(expr, relax.Tuple):
        for item in expr.fields:
            yield from _used(item)
    elif isinstance(expr, relax.TupleGetItem):
        yield from _used(expr.tuple_value)
    elif isinstance(expr, relax.Call):
        for arg in expr.args:
            yield from _used(arg)


def _encoder(expr: Any, made: dict[Any, tuple[int, Any]]) -> int:
    """The index of the binding that encodes the counts ``expr``; -1 where it is none."""
    number = -1
    while not is_op(expr, "sdc.spike_encode"):
        if isinstance(expr, relax.Var) and expr in made:
            number, expr = made[expr]
        elif isinstance(expr, relax.TupleGetItem):
            expr = expr.tuple_value
        elif isinstance(expr, relax.Call) and expr.args:
            expr = expr.args[0]
        else:
            return -1
    return number
