"""``sdc.spike_train``: time made explicit, counts expanded into trains."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from tvm import relax, te, tirx

from sdc.ir.coding import expand, time_steps
from sdc.ir.ops._register import attributes, call, register, shape_of, tensor

__all__ = ["reference", "spike_train"]

DOC = """Expands counts into trains of T steps.

counts [...] int8 / uint8 / int16 -> trains [T, ...] int8 in {-1, 0, 1}; T and the weight of each step
follow from ``coding`` and ``levels`` as in sdc.ir.coding."""


def spike_train(counts: relax.Expr, *, coding: str, levels: int) -> relax.Call:
    """Builds ``sdc.spike_train``: counts [...] -> [T, ...] int8."""
    return call("spike_train", [counts], {"coding": coding, "levels": levels})


def reference(counts: NDArray, *, coding: Any, levels: int) -> NDArray:
    """Trains by :func:`sdc.ir.coding.expand`."""
    return expand(counts, coding, levels)


def _infer(node: relax.Call) -> Any:
    attrs = attributes(node)
    return tensor(
        [time_steps(attrs["coding"], attrs["levels"]), *shape_of(node.args[0], "spike_train")], "int8"
    )


def _legalize(builder: relax.BlockBuilder, node: relax.Call) -> relax.Expr:
    attrs = attributes(node)
    coding, levels = attrs["coding"], attrs["levels"]

    def compute(counts: te.Tensor) -> te.Tensor:
        def spike(*i: Any) -> Any:
            t, count = i[0].astype("int32"), counts(*i[1:]).astype("int32")
            one, zero = tirx.const(1, "int32"), tirx.const(0, "int32")
            sign = tirx.if_then_else(count < 0, -one, one)
            if coding == "ternary":
                value = tirx.if_then_else(t < tirx.abs(count), sign, zero)
            elif coding == "bitwise":
                value = sign * ((tirx.abs(count) >> t) & one)
            else:
                first = tirx.all(t < levels, t < count)
                second = tirx.all(t >= levels, t - levels < -count)
                value = tirx.if_then_else(tirx.any(first, second), one, zero)
            return value.astype("int8")

        return te.compute((time_steps(coding, levels), *counts.shape), spike, name="spike_train")

    return builder.call_te(compute, *node.args, primfunc_name_hint="spike_train")


register("spike_train", _infer, reference, _legalize, DOC)
