"""Runs a lowered CUDA program without a device: Relax step by step, kernels in the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from helpers.simt import launch
from numpy.typing import NDArray

from sdc.ir.evaluate.evaluator import Evaluator, Frame
from sdc.ir.evaluate.symbolic import evaluate_prim
from sdc.ir.model import Model
from sdc.ir.ops import is_op
from sdc.targets.cuda.program import lower_for_cuda
from sdc.targets.fused.program import Lowered

__all__ = ["EmulatedDecoder"]


class EmulatedDecoder:
    """A decoder's functions on one set of caches, as the device would run them.

    Args:
        model: After the spike rewrite.
    """

    def __init__(self, model: Model) -> None:
        self.lowered, self.schedules = lower_for_cuda(model)
        self.weights = {name: param.value() for name, param in self.lowered.weights.params.items()}
        self.reset()

    def reset(self) -> None:
        """Empty caches; what lies in them is garbage, as on a device."""
        self.position = np.array(0)
        self.states = [np.full(s.shape, 85, s.dtype) for s in self.lowered.states]

    def call(self, name: str, tokens: NDArray) -> NDArray:
        """``prefill``, ``score`` or ``decode`` of tokens [n]: logits [., vocab]."""
        logits = self.run(name, np.ascontiguousarray(tokens[None]))
        self.position += len(tokens)
        return np.asarray(logits).reshape(-1, logits.shape[-1])

    def greedy(self, token: int, count: int) -> list[int]:
        """Tokens after ``token``, chosen by the program."""
        cell, made = np.array([[token]]), []
        for _ in range(count):
            self.run("greedy", cell)
            made.append(int(cell.item()))
        return made

    def run(self, name: str, tokens: NDArray) -> NDArray:
        function = self.lowered.module[name]
        frame = _KernelFrame(Evaluator(_Bare(self.lowered, self.weights)), function)  # type: ignore[arg-type]
        inputs = [tokens, self.position, *self.states, *self.weights.values()]
        frame.bind_inputs(name, tuple(inputs))
        result = frame.execute()
        return result[0] if isinstance(result, tuple) else result


class _Bare:
    """What the evaluator wants of a model."""

    def __init__(self, lowered: Lowered, params: dict[str, NDArray]) -> None:
        self.module, self.params = lowered.module, params


class _KernelFrame(Frame):
    def evaluate(self, expr: Any, readout_only: bool) -> Any:
        if is_op(expr, "call_tir"):
            types = list(expr.ty_args)
            if isinstance(types[0], tvm.ir.TupleType):
                types = list(types[0].fields)
            out = [self.fresh(ty) for ty in types]
            self.launch(expr, [*map(self.value, expr.args[1].fields), *out])
            return tuple(out) if len(out) > 1 else out[0]
        if is_op(expr, "call_tir_inplace"):
            given = list(map(self.value, expr.args[1].fields))
            held = [int(i) for i in expr.attrs.inplace_indices]
            types = list(expr.ty_args)
            if isinstance(types[0], tvm.ir.TupleType):
                types = list(types[0].fields)
            fresh = {n: self.fresh(types[n]) for n, i in enumerate(held) if i < 0}
            self.launch(expr, [*given, *fresh.values()])
            made = [given[i] if i >= 0 else fresh[n] for n, i in enumerate(held)]
            return tuple(made) if len(made) > 1 else made[0]
        return super().evaluate(expr, readout_only)

    def fresh(self, ty: Any) -> NDArray:
        shape = [evaluate_prim(d, self.symbols) for d in ty.shape.values]
        return np.full(shape, 85, str(ty.dtype))

    def launch(self, expr: Any, arrays: list[NDArray]) -> None:
        kernel = self.owner.model.module[expr.args[0]]
        assert all(a.flags.c_contiguous for a in arrays)
        launch(kernel, arrays)
