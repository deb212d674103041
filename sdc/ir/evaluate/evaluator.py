"""The evaluator proper: walks a Relax function and calls the reference of each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from sdc.errors import SdcError
from sdc.ir.evaluate.accumulator import PendingAccumulator
from sdc.ir.evaluate.fallback import run_operation
from sdc.ir.evaluate.relax_ops import NUMPY_OPS
from sdc.ir.evaluate.symbolic import bind_shape, evaluate_prim
from sdc.ir.model import Model
from sdc.ir.ops import OPS, attributes

__all__ = ["Evaluator", "Event", "Frame", "Hook", "PendingAccumulator", "lifetimes"]


@dataclass(frozen=True)
class Event:
    """One call of an sdc operation, as a hook sees it.

    Attributes:
        op: Name without ``relax.sdc.``, e.g. ``linear``.
        attrs: The call's attributes.
        args: Values of the arguments (arrays).
        arg_names: Parameter name of each argument that is a weight, else "".
        result: Array, tuple of arrays, or :class:`PendingAccumulator`.
    """

    op: str
    attrs: Mapping[str, Any]
    args: tuple[Any, ...]
    arg_names: tuple[str, ...]
    result: Any


Hook = Callable[[Event], None]


class Evaluator:
    """Runs a model's functions in NumPy.

    Args:
        model: The module and its lazy weights.
        hook: Called after every sdc operation.
        keep_params: Keep computed weights between uses and runs (else one layer's at a time).
    """

    def __init__(self, model: Model, hook: Hook | None = None, *, keep_params: bool = False) -> None:
        self.model = model
        self.hook = hook
        self._kept: dict[str, NDArray] | None = {} if keep_params else None

    def run(self, function: str, *inputs: NDArray) -> tuple[NDArray, ...]:
        """Runs ``function`` on its run-time inputs (weights come from the model).

        Returns:
            The outputs, as a tuple even where there is one.

        Raises:
            SdcError: An input does not have the declared shape, or a weight is missing.
        """
        relax_function = self.model.module[function]
        frame = Frame(self, relax_function)
        frame.bind_inputs(function, inputs)
        result = frame.execute()
        return result if isinstance(result, tuple) else (result,)

    def param(self, name: str) -> NDArray:
        """The value of a weight.

        Raises:
            SdcError: The model has no such weight.
        """
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        if name not in self.model.params:
            raise SdcError(f'the module asks for weight "{name}", which the model does not hold')
        value = self.model.params[name].value()
        if self._kept is not None:
            self._kept[name] = value
        return value


class Frame:
    """The values of one function's variables while it runs."""

    def __init__(self, owner: Evaluator, function: relax.Function) -> None:
        self.owner = owner
        self.function = function
        self.values: dict[Any, Any] = {}
        self.symbols: dict[Any, int] = {}
        self.weights: dict[Any, str] = {}

    def bind_inputs(self, name: str, inputs: tuple[NDArray, ...]) -> None:
        params = list(self.function.params)
        attrs = self.function.attrs
        count = int(attrs["num_input"]) if attrs is not None and "num_input" in attrs else len(inputs)
        if len(inputs) != count:
            raise SdcError(f"function {name} takes {count} inputs, got {len(inputs)}")
        for var, value in zip(params, inputs, strict=False):
            array = np.asarray(value)
            if str(array.dtype) != str(var.ty.dtype):
                raise SdcError(f"input {var.name} of {name} must be {var.ty.dtype}, got {array.dtype}")
            bind_shape(var.name, var.ty, array.shape, self.symbols)
            self.values[var] = array
        for var in params[count:]:
            self.weights[var] = str(var.name)

    def execute(self) -> Any:
        bindings = [b for block in self.function.body.blocks for b in block.bindings]
        last_use, readout_only = lifetimes(bindings, self.function.body.body)
        for index, binding in enumerate(bindings):
            self.step(binding, binding.var in readout_only)
            for var in last_use.get(index, ()):
                self.values.pop(var, None)
        return self.value(self.function.body.body)

    def step(self, binding: Any, readout_only: bool = False) -> None:
        """Computes one binding's value."""
        if isinstance(binding, relax.MatchCast):
            value = self.value(binding.value)
            bind_shape(str(binding.var.name), binding.ty, np.shape(value), self.symbols)
            self.values[binding.var] = value
        else:
            self.values[binding.var] = self.evaluate(binding.value, readout_only)

    def evaluate(self, expr: relax.Expr, readout_only: bool) -> Any:
        if not isinstance(expr, relax.Call):
            return self.value(expr)
        if not isinstance(expr.op, tvm.ir.Op):
            raise SdcError(f"the evaluator runs operations, not calls of {expr.op}")
        name = str(expr.op.name).removeprefix("relax.")
        args = tuple(self.value(a) for a in expr.args)
        attrs = attributes(expr)
        with _named(name, args):
            if name.startswith("sdc."):
                return self.sdc_call(name.removeprefix("sdc."), expr, args, attrs, readout_only)
            plain = NUMPY_OPS.get(name)
            return plain(*args, **attrs) if plain else run_operation(expr, args, attrs)

    def sdc_call(
        self, name: str, expr: relax.Call, args: tuple[Any, ...], attrs: dict[str, Any], readout_only: bool
    ) -> Any:
        if name == "spike_accumulate" and readout_only:
            result: Any = PendingAccumulator(args[0], args[1], attrs["group"])
        elif name == "readout" and isinstance(args[0], PendingAccumulator):
            result = args[0].readout(*args[1:])
        else:
            result = OPS[name].reference(*args, **attrs)
        if self.owner.hook is not None:
            names = tuple(self.weights.get(a, "") for a in expr.args)
            self.owner.hook(Event(name, attrs, args, names, result))
        return result

    def value(self, expr: Any) -> Any:
        """The value of an atom: variable, constant, shape, tuple or projection."""
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(f) for f in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self.value(expr.tuple_value)[expr.index]
        if isinstance(expr, relax.ShapeExpr):
            return tuple(evaluate_prim(d, self.symbols) for d in expr.values)
        if isinstance(expr, tvm.ir.GenericConst):
            return expr.value.numpy()
        if expr in self.weights:
            return self.owner.param(self.weights[expr])
        if expr in self.values:
            return self.values[expr]
        if isinstance(expr, tirx.FloatImm):
            return float(expr.value)
        if relax.expr_functor.is_prim_expr(expr):
            return evaluate_prim(expr, self.symbols)
        raise SdcError(f"the evaluator does not know the expression {type(expr).__name__}: {expr}")


def lifetimes(bindings: list[Any], result: Any) -> tuple[dict[int, list[Any]], set[Any]]:
    """Variables that die after each binding, and those that only readouts consume."""
    last: dict[Any, int] = {}
    uses: dict[Any, set[bool]] = {}
    for index, binding in enumerate(bindings):
        is_readout = (
            isinstance(binding.value, relax.Call)
            and isinstance(binding.value.op, tvm.ir.Op)
            and str(binding.value.op.name) == "relax.sdc.readout"
        )
        for var in _variables(binding.value):
            last[var] = index
            uses.setdefault(var, set()).add(is_readout)
    kept = set(_variables(result))
    dying: dict[int, list[Any]] = {}
    for var, index in last.items():
        if var not in kept:
            dying.setdefault(index, []).append(var)
    only = {var for var, kinds in uses.items() if kinds == {True} and var not in kept}
    return dying, only


def _variables(expr: Any) -> list[Any]:
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Call):
        return [v for a in expr.args for v in _variables(a)]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in _variables(f)]
    if isinstance(expr, relax.TupleGetItem):
        return _variables(expr.tuple_value)
    return []


@contextmanager
def _named(name: str, args: tuple[Any, ...]) -> Iterator[None]:
    """Errors of an operation that is undefined for its arguments (an index outside a table) say which it is.

    Raises:
        SdcError: In place of what NumPy or TVM raise.
    """
    try:
        yield
    except (ValueError, IndexError, TypeError, RuntimeError, OverflowError) as error:
        shapes = ", ".join(str(list(np.shape(a))) for a in args if not isinstance(a, tuple))
        what = str(error).strip().split("\n")[0]
        raise SdcError(f"{name} of {shapes} cannot be computed ({what})") from error
