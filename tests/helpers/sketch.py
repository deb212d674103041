"""Small modules for the tests of passes, written down so that before and after read as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from sdc.ir.model import Model, ModelInfo
from sdc.ir.params import Param, array_param

__all__ = ["Sketch", "assert_same_model"]


class Sketch:
    """Builds a stateless model: inputs by keyword, weights in the order of their first use.

    Args:
        inputs: Shape of each float32 input by name, or (shape, dtype).
    """

    def __init__(self, **inputs: Any) -> None:
        self.inputs = {name: relax.Var(name, _type(what)) for name, what in inputs.items()}
        self.weights: dict[str, relax.Var] = {}
        self.params: dict[str, Param] = {}
        self.builder = relax.BlockBuilder()
        self.builder.begin_scope(list(self.inputs.values()))
        self.builder._begin_dataflow_block()

    def __getitem__(self, name: str) -> relax.Var:
        """An input by name."""
        return self.inputs[name]

    def weight(self, name: str, value: NDArray | Param) -> relax.Var:
        """A weight; the same name again is the same weight."""
        if name not in self.weights:
            param = value if isinstance(value, Param) else array_param(name, value)
            self.params[name] = param.renamed(name)
            self.weights[name] = relax.Var(name, relax.TensorType(list(param.shape), param.dtype))
        return self.weights[name]

    def __call__(self, expr: relax.Expr) -> relax.Var:
        """Binds an expression."""
        return self.builder.emit(expr)

    def model(self, *outputs: relax.Expr) -> Model:
        """The finished model: one output, or a tuple of several."""
        out: relax.Var
        if len(outputs) == 1:
            block, out = _returning(self.builder._end_block(), outputs[0])
        else:
            out = self.builder.emit_output(relax.Tuple(list(outputs)))
            block = self.builder._end_block()
        self.builder.end_scope()
        params = [*self.inputs.values(), *self.weights.values()]
        self.builder.begin_scope(params)
        body = self.builder.normalize(relax.SeqExpr([block], out))
        self.builder.end_scope()
        function = relax.Function(params, body).with_attr("num_input", len(self.inputs))
        function = function.with_attr("global_symbol", "main")
        return Model(tvm.IRModule({"main": function}), self.params, ModelInfo())


def assert_same_model(got: Model, want: Model, tolerance: float = 1e-5) -> None:
    """The modules are structurally equal, and weights agree in name, order and value."""
    tvm.ir.assert_structural_equal(got.module, want.module, map_free_vars=True)
    assert list(got.params) == list(want.params)
    for name, param in want.params.items():
        value = param.value()
        limit = tolerance * max(1.0, float(np.abs(value).max(initial=0.0)))
        np.testing.assert_allclose(got.params[name].value(), value, rtol=0, atol=limit, err_msg=name)


def _returning(block: relax.BindingBlock, value: relax.Var) -> tuple[relax.BindingBlock, relax.Var]:
    """The block with the last binding as its output (no second name for it)."""
    *before, last = block.bindings
    assert last.var.same_as(value), "the only output must be the last expression"
    out = relax.Var("out", last.var.ty)
    return relax.DataflowBlock([*before, relax.VarBinding(out, last.value)]), out


def _type(what: Any) -> relax.TensorType:
    shape, dtype = what if isinstance(what, tuple) else (what, "float32")
    return relax.TensorType(list(shape), dtype)
