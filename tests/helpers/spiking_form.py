"""A tiny random decoder in spiking form, made from the float one without the passes under test elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from sdc.ir.bfloat16 import RoundToBFloat16
from sdc.ir.model import Model
from sdc.ir.ops import (
    attributes,
    hadamard,
    is_op,
    kv_append,
    readout,
    shape_of,
    spike_accumulate,
    spike_attention,
    spike_encode,
)
from sdc.ir.params import Param, array_param

__all__ = ["SpikeOptions", "spiking_form", "state_inputs"]


@dataclass(frozen=True)
class SpikeOptions:
    """How the float model becomes spikes.

    Attributes:
        block: Hadamard block before every linear (0: none), and before q and k per head.
        weight_group: Channels per weight scale, 0 for a whole row.
        floor: Least threshold of a linear's inputs.
    """

    levels: int = 15
    group: int = 16
    block: int = 16
    weight_bits: int = 8
    weight_group: int = 0
    head_block: int = 0
    floor: float = 0.0


def spiking_form(model: Model, options: SpikeOptions) -> Model:
    """The spiking form of a float decoder (its logits differ: nothing is calibrated or folded)."""
    return _Rewrite(model, options).run()


def state_inputs(model: Model) -> tuple[NDArray, ...]:
    """Empty caches for the evaluator, batch 1."""
    function = model.module["forward"]
    states = list(function.params)[2 : int(function.attrs["num_input"])]
    return tuple(np.zeros((1, *[int(d) for d in v.ty.shape.values[1:]]), str(v.ty.dtype)) for v in states)


class _Rewrite:
    def __init__(self, model: Model, options: SpikeOptions) -> None:
        self.model, self.options = model, options
        self.function: Any = model.module["forward"]
        self.bb = relax.BlockBuilder()
        self.rng = np.random.default_rng(1)
        self.params: dict[str, Param] = {}
        self.vars: dict[str, relax.Var] = {}
        self.map: dict[Any, Any] = {}
        self.encoded: dict[Any, tuple[Any, Any]] = {}

    def run(self) -> Model:
        old = list(self.function.params)
        count = int(self.function.attrs["num_input"])
        inputs = old[:2]
        for var in old[2:count]:
            shape = list(var.ty.shape.values)
            inputs.append(relax.Var(var.name, relax.TensorType(shape, "int8")))
            theta = relax.TensorType([*shape[:3], 1], "float32")
            inputs.append(relax.Var(str(var.name).replace("cache", "theta"), theta))
            self.map[var] = (inputs[-2], inputs[-1])
        self.map |= {v: v for v in old[:2]}
        for var in old[count:]:
            self.map[var] = None
        self.position = inputs[1]
        with self.bb.function("forward", attrs={"num_input": len(inputs)}):
            with self.bb.dataflow():
                for block in self.function.body.blocks:
                    for binding in block.bindings:
                        self.map[binding.var] = self.visit(binding.value)
                result = self.map[self.function.body.body]
                out = self.bb.emit_output(self.bb.normalize(result))
            self.bb.emit_func_output(out, [*inputs, *self.vars.values()])
        return replace(self.model, module=self.bb.get(), params=self.params)

    def visit(self, value: Any) -> Any:
        if isinstance(value, relax.Tuple):
            fields: list[Any] = []
            for field in value.fields:
                new = self.new(field)
                fields += new if isinstance(new, tuple) else [new]
            return relax.Tuple(fields)
        if is_op(value, "sdc.linear"):
            return self.linear(value)
        if is_op(value, "sdc.kv_append"):
            return self.append(value)
        if is_op(value, "sdc.attention"):
            return self.attention(value)
        if isinstance(value, relax.TupleGetItem):
            return self.bb.emit(relax.TupleGetItem(self.new(value.tuple_value), value.index))
        if isinstance(value, relax.Call):
            return self.bb.emit(relax.Call(value.op, [self.new(a) for a in value.args], value.attrs))
        return self.new(value)

    def new(self, expr: Any) -> Any:
        if not isinstance(expr, relax.Var):
            return expr
        if self.map[expr] is None:
            self.map[expr] = self.weight(self.model.params[str(expr.name)])
        return self.map[expr]

    def weight(self, param: Param) -> relax.Var:
        if param.name not in self.vars:
            self.params[param.name] = param
            self.vars[param.name] = relax.Var(param.name, relax.TensorType(list(param.shape), param.dtype))
        return self.vars[param.name]

    def encode(
        self, x: Any, group: int, block: int, levels: int, name: str, floor: float = 0.0
    ) -> tuple[Any, Any]:
        key = (x, group, levels)
        if key not in self.encoded:
            source = x
            if block:
                width = int(shape_of(x, name)[-1])
                signs = np.where(self.rng.random(width) < 0.5, -1, 1).astype(np.float32)
                source = self.bb.emit(
                    hadamard(x, self.weight(array_param(f"{name}.signs", signs)), block=block)
                )
            both = self.bb.emit(spike_encode(source, levels=levels, group=group, floor=floor, name=name))
            self.encoded[key] = (self.bb.emit(both[0]), self.bb.emit(both[1]))
        return self.encoded[key]

    def linear(self, call: Any) -> Any:
        o, name = self.options, attributes(call)["name"]
        x = self.new(call.args[0])
        width = int(shape_of(x, name)[-1])
        group = o.group or width
        counts, theta = self.encode(x, group, o.block, o.levels, name, o.floor)
        float_weight = self.model.params[str(call.args[1].name)]
        accumulators = min(group, o.weight_group or width)
        top = 127 if o.weight_bits == 8 else 7
        weight = float_weight.value()
        grouped = weight.reshape(weight.shape[0], -1, o.weight_group or width)
        scale = (np.abs(grouped).max(-1) / top).astype(np.float32)
        integers = np.rint(grouped / scale[..., None]).astype(np.int8).reshape(weight.shape)
        w = self.weight(array_param(f"{name}.q", integers))
        scales = array_param(f"{name}.scale", scale)
        s = self.weight(scales.then(RoundToBFloat16()) if o.weight_bits < 8 else scales)
        acc = self.bb.emit(
            spike_accumulate(counts, w, group=accumulators, weight_bits=o.weight_bits, name=name)
        )
        bias = [self.new(call.args[2])] if len(call.args) > 2 else []
        return self.bb.emit(readout(acc, theta, s, *bias))

    def append(self, call: Any) -> tuple[Any, Any]:
        cache, theta = self.map[call.args[0]]
        x = self.new(call.args[1])
        width, name = int(shape_of(x, "kv")[-1]), str(call.args[0].name)
        block = self.options.head_block if name.startswith("k") else 0
        counts, thresholds = self.encode(x, width, block, 127, name)
        return (
            self.bb.emit(kv_append(cache, counts, self.position)),
            self.bb.emit(kv_append(theta, thresholds, self.position)),
        )

    def attention(self, call: Any) -> Any:
        attrs = attributes(call)
        q = self.new(call.args[0])
        width = int(shape_of(q, "q")[-1])
        name = attrs["name"]
        pair = self.encode(q, width, self.options.head_block, 15, f"{name}.query")
        k, v = self.map[call.args[1]], self.map[call.args[2]]
        return self.bb.emit(
            spike_attention(
                pair, k, v, self.position, scale=attrs["scale"], causal=True, levels=255, name=name
            )
        )
