"""Walks a normalised graph and builds the Relax function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tvm import relax, tirx

from sdc.errors import InvalidModelError, UnsupportedOpError
from sdc.frontends.onnx.lift.lazy import LAZY
from sdc.frontends.onnx.lift.positions import position_rows
from sdc.frontends.onnx.lift.structural import Interpreter, symbolic
from sdc.frontends.onnx.lift.values import Constant, Grown, Lifted, Past, Structural, Weight, number
from sdc.frontends.onnx.normalise.rewriting import REFUSED_NODES
from sdc.frontends.onnx.schema import UNKNOWN_ATTRIBUTES
from sdc.frontends.onnx.stored import read_tensor
from sdc.frontends.onnx.unfit import refusing
from sdc.ir.ops import shape_of
from sdc.ir.params import Cast, FunctionSource, Param, array_param

__all__ = ["CONVERTERS", "Lifter", "computed_in", "converter"]

Converter = Callable[["Lifter", ir.Node], Any]
CONVERTERS: dict[str, Converter] = {}

PLAIN = frozenset(["bool", "float32", *(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64))])
SMALL = 64  # elements up to which a constant expression is computed at once


def converter(*ops: str) -> Callable[[Converter], Converter]:
    """Registers the lifting of standard operations."""

    def add(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(ops, function))
        return function

    return add


@dataclass
class Decoding:
    """What a decoder's function has besides its weights.

    Attributes:
        max_seq: Rows of each cache.
        position: Tokens already in the caches.
        caches: Cache inputs in order, and what they become.
    """

    max_seq: int
    position: relax.Var
    caches: list[relax.Var] = field(default_factory=list)
    grown: list[relax.Expr] = field(default_factory=list)


class Lifter:
    """The state of one lifting: the values so far, weights, symbolic dimensions."""

    def __init__(self, model: ir.Model, builder: relax.BlockBuilder, decoding: Decoding | None) -> None:
        self.model, self.builder, self.decoding = model, builder, decoding
        self.values: dict[int, Lifted] = {}
        self.params: dict[str, Param] = {}
        self.stored: dict[int, Param] = {}
        self.memo: dict[str, Any] = {}
        self.variables: dict[str, relax.Var] = {}
        self.symbols: dict[str, tirx.Var] = {}
        self.op_names: set[str] = set()
        self.runners: dict[int, ReferenceEvaluator] = {}  # of the model's nodes, which live as long

    # -- walking -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Lifts every node.

        Raises:
            UnsupportedOpError: Some have no rule; all of them are listed.
        """
        for name, value in self.model.graph.initializers.items():
            if name is not None:
                self.values[id(value)] = Constant(value)
        refused = {id(n): lines for n, lines in self.model.meta.get(REFUSED_NODES, ())}
        offenders = [*self.model.meta.get(UNKNOWN_ATTRIBUTES, ())]
        for n in self.model.graph:
            if id(n) in refused or ((n.domain or n.op_type not in CONVERTERS) and not self._foldable(n)):
                generic = f'node "{n.name}" (op {n.op_type}, domain {n.domain or "ai.onnx"})'
                offenders += refused.get(id(n), (generic,))
        if offenders:
            raise UnsupportedOpError(offenders)
        for node in self.model.graph:
            self._lift(node)

    def _foldable(self, node: ir.Node) -> bool:
        """Whether a node without a rule is never asked for one: it depends on shapes or constants alone."""
        marks: dict[int, bool] = self.memo.setdefault("fixed", {})
        if not marks:
            for n in self.model.graph:
                fixed = all(v is None or self._fixed(v, marks) for v in n.inputs) or n.op_type == "Shape"
                marks.update({id(o): fixed for o in n.outputs})
        return not node.domain and all(marks[id(o)] for o in node.outputs)

    def _fixed(self, value: ir.Value, marks: Mapping[int, bool]) -> bool:
        if id(value) in marks:
            return marks[id(value)]
        return isinstance(self.values.get(id(value)), Constant | Structural) or value.is_initializer()

    def _lift(self, node: ir.Node) -> None:
        where = f'node "{node.name}" (op {node.op_type}): its inputs or attributes do not fit it'
        with refusing(where):
            self._convert(node)

    def _convert(self, node: ir.Node) -> None:
        inputs = [self.values[id(v)] for v in node.inputs if v is not None]
        if node.op_type == "Gemm" and any(len(self.dims_of(v) or ()) != 2 for v in node.inputs[:2]):
            raise InvalidModelError(f'node "{node.name}" (op Gemm): its factors are not matrices')
        if node.op_type == "Constant" or (inputs and all(isinstance(i, Constant | Weight) for i in inputs)):
            self._fold(node)
        elif node.op_type == "Shape" or (
            inputs and all(isinstance(i, Constant | Weight | Structural) for i in inputs)
        ):
            for out in node.outputs:
                self.values[id(out)] = Structural(out, self._symbolic(node))
        else:
            self._store(node, CONVERTERS[node.op_type](self, node))

    def _store(self, node: ir.Node, result: Any) -> None:
        results = result if isinstance(result, tuple) else (result,)
        outputs = set(self.model.graph.outputs)
        if any(out.uses() or out in outputs for out in node.outputs[len(results) :]):
            raise UnsupportedOpError(
                [f'node "{node.name}" (op {node.op_type}): outputs beyond the first {len(results)} are read']
            )
        for out, value in zip(node.outputs, results, strict=False):
            self.values[id(out)] = value

    def _fold(self, node: ir.Node) -> None:
        """Constants of constants: small ones become numbers, large ones lazy weights."""
        first = node.inputs[0] if node.inputs else None
        if (
            first is not None
            and node.op_type in LAZY
            and np.prod(_const_shape(self.values[id(first)])) > SMALL
        ):
            lazy = LAZY[node.op_type](self, node)
            if lazy is not None:
                self.values[id(node.outputs[0])] = Weight(lazy)
                return
        feeds = {v.name: self.array(v) for v in node.inputs if v is not None}
        arrays = ReferenceEvaluator(ir.serde.serialize_node(node), opsets={"": 23}).run(None, feeds)
        for out, array in zip(node.outputs, arrays, strict=True):
            out.const_value = ir.tensor(np.asarray(array), name=out.name)
            self.values[id(out)] = Constant(out)

    # -- structural values ---------------------------------------------------------------------------

    def dims_of(self, value: ir.Value) -> tuple[Any, ...] | None:
        """The symbolic shape of a value that has become one, or None."""
        lifted = self.values.get(id(value))
        if isinstance(lifted, Past | Grown):
            return lifted.dims
        if isinstance(lifted, Constant | Weight):
            return tuple(_const_shape(lifted))
        if isinstance(lifted, Structural):
            return self._structural_dims(value)
        if lifted is None:
            return None
        return tuple(shape_of(lifted, "shape"))

    def _structural_dims(self, value: ir.Value) -> tuple[Any, ...] | None:
        if value.producer() is None:
            return self._input_dims(value)
        if self.decoding is not None or not self._computable(value):
            return None
        return tuple(shape_of(self.expr(value), "shape"))

    def _computable(self, value: ir.Value | None) -> bool:
        """Whether every operation behind a structural value has a rule."""
        node = None if value is None else value.producer()
        if node is None or node.op_type == "Constant" or not isinstance(self.values[id(value)], Structural):
            return True
        return node.op_type in CONVERTERS and all(self._computable(v) for v in node.inputs)

    def _input_dims(self, value: ir.Value) -> tuple[Any, ...]:
        """Shapes of a decoder's mask [batch, past + seq] and position ids [batch, seq]."""
        batch, seq = self.symbol("batch"), self.symbol("seq")
        if "position" in str(value.name):
            return (batch, seq)
        has_past = any(isinstance(v, Past) for v in self.values.values())
        return (batch, self.symbol("past") + seq if has_past else seq)

    def _symbolic(self, node: ir.Node) -> tuple[Any, ...] | None:
        if node.op_type == "Shape":
            dims = self.dims_of(node.inputs[0])
            if dims is None:
                return None
            start = node.attributes.get_int("start", 0)
            return dims[start : node.attributes.get_int("end", len(dims))]
        elements = [self.elements(v) for v in node.inputs if v is not None]
        return symbolic(node, elements, lambda i: self.constant(node.inputs[i]))

    def elements(self, value: ir.Value) -> tuple[Any, ...] | None:
        """The elements of a small integer tensor as integers and expressions."""
        lifted = self.values[id(value)]
        if isinstance(lifted, Structural):
            return lifted.dims
        array = self.constant(value)
        if array is None or array.dtype.kind not in "iu" or array.size > 64:
            return None
        return tuple(int(x) for x in array.reshape(-1))

    def interpreter(self, sizes: Mapping[str, int]) -> Interpreter:
        """Numbers of structural values where ``batch``, ``seq``, ``past`` and others have these sizes."""
        by_symbol = {self.symbol(name): size for name, size in sizes.items()}
        for name, var in self.symbols.items():
            by_symbol.setdefault(var, sizes["batch"] if "batch" in name else sizes["seq"])
        return Interpreter(self.dims_of, _input_numbers(sizes), by_symbol, self.runners)

    # -- constants and weights -----------------------------------------------------------------------

    def constant(self, value: ir.Value | None) -> NDArray | None:
        """The number of a constant value, else None."""
        return (
            self.array(value) if value is not None and isinstance(self.values[id(value)], Constant) else None
        )

    def array(self, value: ir.Value) -> NDArray:
        """The number of a constant; float16 and bfloat16 as float32.

        Raises:
            InvalidModelError: The constant's data cannot be read.
        """
        lifted = self.values[id(value)]
        if isinstance(lifted, Weight):
            return lifted.param.value()
        tensor = value.const_value
        if tensor is None:
            raise InvalidModelError(f'constant "{value.name}" has no data')
        array = tensor.numpy()
        return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16", "float64") else array

    def param(self, value: ir.Value) -> Param:
        """A constant as a lazy float32 parameter."""
        lifted = self.values[id(value)]
        if isinstance(lifted, Weight):
            return lifted.param
        if id(value) not in self.stored:
            self.stored[id(value)] = self._stored(value)
        return self.stored[id(value)]

    def _stored(self, value: ir.Value) -> Param:
        tensor = value.const_value
        if tensor is None:
            raise InvalidModelError(f'constant "{value.name}" has no data')
        shape, dtype, name = tuple(int(d) for d in tensor.shape), str(tensor.dtype.numpy()), str(value.name)
        source = FunctionSource(partial(read_tensor, tensor), f"ONNX initializer {name}")
        param = Param(name, shape, dtype, source)
        return param if dtype == "float32" else param.then(Cast("float32"), dtype="float32")

    def weight(self, param: Param) -> relax.Var:
        """The function parameter that stands for a weight; the same weight is declared once."""
        if param.name in self.params and self.params[param.name] != param:
            param = param.renamed(_unique(param.name, self.params))
        if param.name not in self.variables:
            self.params[param.name] = param
            self.variables[param.name] = relax.Var(
                param.name, relax.TensorType(list(param.shape), param.dtype)
            )
        return self.variables[param.name]

    def table(self, name: str, array: NDArray) -> relax.Var:
        """A float32 table computed while lifting (rotary angles); equal tables are declared once."""
        array = np.ascontiguousarray(array, np.float32)
        for known, param in self.params.items():
            if known.startswith(name) and param.shape == array.shape and (param.value() == array).all():
                return self.variables[known]
        return self.weight(array_param(_unique(name, self.params), array))

    # -- expressions ---------------------------------------------------------------------------------

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """Binds an expression to a variable."""
        return self.builder.emit(expr)

    def expr(self, value: ir.Value) -> relax.Expr:
        """A value as a Relax expression.

        Raises:
            UnsupportedOpError: It depends on positions in a way that has no rule yet.
        """
        lifted = self.values[id(value)]
        if isinstance(lifted, Grown):
            return lifted.rows
        if isinstance(lifted, Constant | Weight):
            if isinstance(lifted, Constant) and self._stays_constant(lifted):
                return number(self.array(value))
            return self.weight(self.param(value))
        if isinstance(lifted, Structural) and self.decoding is not None:
            rows = position_rows(self, value, self.decoding.position, self.decoding.max_seq)
            if rows is not None:
                return rows
        if isinstance(lifted, Structural) and self.decoding is None and self._computable(value):
            return self._computed(value)
        if isinstance(lifted, Structural | Past):
            made = value.producer()
            where = f'node "{made.name}" (op {made.op_type})' if made else f'input "{value.name}"'
            raise UnsupportedOpError([f"{where}: a value of positions or shapes is used as an activation"])
        return lifted

    @staticmethod
    def _stays_constant(lifted: Constant) -> bool:
        """Numbers and tensors of integers; all other constants are weights."""
        tensor = lifted.value.const_value
        assert tensor is not None
        return int(tensor.size) <= 1 or tensor.dtype.numpy().kind in "biu"

    def _computed(self, value: ir.Value) -> relax.Expr:
        """A structural value of a graph without a cache, computed at run time like any other."""
        computed: dict[int, relax.Expr] = self.memo.setdefault("computed", {})
        if id(value) not in computed:
            node = value.producer()
            assert node is not None
            result = CONVERTERS[node.op_type](self, node)
            results = result if isinstance(result, tuple) else (result,)
            computed.update({id(o): r for o, r in zip(node.outputs, results, strict=False)})
        return computed[id(value)]

    def binding(self, expr: relax.Expr) -> relax.Expr | None:
        """What a variable is bound to, or None."""
        return self.builder.lookup_binding(expr) if isinstance(expr, relax.Var) else None

    def permute(self, expr: relax.Expr, axes: list[int]) -> relax.Expr:
        """Permutes axes; a permutation of its inverse is the original."""
        bound = self.binding(expr)
        if isinstance(bound, relax.Call) and getattr(bound.op, "name", "") == "relax.permute_dims":
            inner = [int(a) for a in bound.attrs.axes]
            if [inner[a] for a in axes] == list(range(len(axes))):
                return bound.args[0]
        return self.emit(relax.op.permute_dims(expr, axes))

    def symbol(self, name: str) -> tirx.Var:
        """The symbolic dimension of this name."""
        if name not in self.symbols:
            self.symbols[name] = tirx.Var(name, "int64")
        return self.symbols[name]

    def op_name(self, weight: ir.Value | None, node: ir.Node) -> str:
        """A unique name for tables and statistics: from the weight where it has one, else from the node."""
        raw = str(weight.name) if weight is not None else ""
        if not raw or raw.startswith("val_"):
            raw = str(node.name or node.outputs[0].name)
        name = raw.removesuffix(".weight").removesuffix(".MatMul").replace("/", ".").strip(".")
        while name in self.op_names:
            name = _unique(name, dict.fromkeys(self.op_names))
        self.op_names.add(name)
        return name


def computed_in(dtype: ir.DataType | None) -> str | None:
    """The dtype that values of an ONNX type have here: every float is float32; None for exotic types."""
    if dtype is None or dtype == ir.DataType.STRING:
        return None
    name = str(dtype.numpy())
    if name in ("float16", "bfloat16", "float64"):
        return "float32"
    return name if name in PLAIN else None


def _unique(name: str, taken: Mapping[str, Any]) -> str:
    if name not in taken:
        return name
    index = 1
    while f"{name}.{index}" in taken:
        index += 1
    return f"{name}.{index}"


def _const_shape(lifted: Any) -> list[int]:
    if isinstance(lifted, Weight):
        return list(lifted.param.shape)
    return [int(d) for d in lifted.value.const_value.shape]


def _input_numbers(sizes: Mapping[str, int]) -> Callable[[ir.Value, Mapping[Any, int]], NDArray]:
    """Numbers of the inputs that positions depend on: nothing is padded, tokens follow the cache."""
    batch, seq, past = sizes.get("batch", 1), sizes.get("seq", 1), sizes.get("past", 0)

    def number(value: ir.Value, _symbols: Mapping[Any, int]) -> NDArray:
        if "position" in str(value.name):
            return np.broadcast_to(past + np.arange(seq, dtype=np.int64), (batch, seq))
        return np.ones((batch, past + seq), np.int64)

    return number
