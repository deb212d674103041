"""The signature of a lowered model."""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from tvm import relax

from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_op, shape_of
from sdc.targets.fused.program import Lowered
from sdc.targets.fused.signature import AttentionForm, Signature

__all__ = ["signature_of"]


def signature_of(model: Model, lowered: Lowered, chunk: int) -> Signature:
    """How the functions of a lowered model are called; ``chunk`` is the most tokens that one call takes."""
    function = model.module[model.entry]
    inputs = list(function.params)[: int(function.attrs["num_input"])]
    plain = inputs[:2] if model.info.kind == "decoder" else inputs
    names = tuple((str(v.name), str(v.ty.dtype), _lengths(v)) for v in plain)
    outputs = tuple(_output_names(function))
    return Signature(
        model.info.kind,
        names,
        outputs,
        lowered.states if model.info.kind == "decoder" else (),
        tuple(lowered.weights.params),
        model.info.max_seq,
        model.info.vocab,
        min(chunk, model.info.max_seq) if model.info.kind == "decoder" else 0,
        lowered.launches,
        tuple(_attention_forms(function)),
    )


def _attention_forms(function: relax.Function) -> Iterator[AttentionForm]:
    for block in function.body.blocks:
        for binding in block.bindings:
            if is_op(binding.value, "sdc.spike_attention"):
                own = attributes(binding.value)
                width = int(shape_of(binding.value.args[4], "attention")[3])
                yield AttentionForm(own["scale"], own["window"], own["softcap"], own["levels"], width)


def _lengths(var: relax.Var) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else -1 for d in shape_of(var, "input"))


def _output_names(function: relax.Function) -> list[str]:
    names = function.attrs.get("output_names") if function.attrs is not None else None
    if names is not None:
        return [str(n) for n in names]
    ty = function.ret_ty
    count = len(ty.fields) if isinstance(ty, tvm.ir.TupleType) else 1
    return [f"output_{i}" for i in range(count)]
