"""Puts the lifted expressions into a function: ``forward`` for a decoder, ``main`` for anything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from sdc.errors import InvalidModelError
from sdc.frontends.onnx.lift.lifter import Decoding, Lifter, computed_in
from sdc.frontends.onnx.lift.masks import NotCausalError
from sdc.frontends.onnx.lift.positions import ShortPositionsError
from sdc.frontends.onnx.lift.rotary import TABLES
from sdc.frontends.onnx.lift.values import TOKEN_INPUTS, Past, Structural
from sdc.frontends.onnx.unfit import refusing
from sdc.ir.model import Model, ModelInfo
from sdc.ir.ops import shape_of
from sdc.ir.params import Param
from sdc.ir.quantised import Dequantise

__all__ = ["lift"]


def lift(model: ir.Model, info: ModelInfo, *, exact: bool = True) -> Model:
    """Lifts a normalised model.

    Args:
        model: The graph.
        info: What is known of it; ``max_seq`` is the length of a decoder's cache.
        exact: The cache must have this length; else it is shortened to the positions that the model has.

    Raises:
        UnsupportedOpError: Operations without a rule; all are listed.
        InvalidModelError: Shapes do not fit together, or the model has fewer positions than the cache.
    """
    tokens = _token_input(model)
    if tokens is not None and any(n.op_type == "Attention" for n in model.graph):
        decoder = _decoder_or_none(model, info, tokens, exact)
        if decoder is not None:
            return decoder
    return _lift_stateless(model, info)


def _decoder_or_none(model: ir.Model, info: ModelInfo, tokens: ir.Value, exact: bool) -> Model | None:
    """The decoder; None for an encoder over tokens, where every token sees every other."""
    try:
        return _lift_decoder(model, info, tokens)
    except NotCausalError:
        return None
    except ShortPositionsError as error:
        shorter = _decoder_or_none(model, replace(info, max_seq=error.rows), tokens, False)
        if shorter is not None and exact:
            raise
        return shorter and shorter.with_note(
            f"frontend: the cache holds {shorter.info.max_seq} tokens, for which the model has positions"
        )


def _token_input(model: ir.Model) -> ir.Value | None:
    """The input that holds token ids, where the graph is a language model with logits as first output."""
    logits = model.graph.outputs[0]
    if logits.shape is not None and len(logits.shape) != 3:
        return None
    for value in model.graph.inputs:
        integer = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
        if integer and value.name in TOKEN_INPUTS and len(value.shape or ()) == 2:
            return value
    return None


def _lift_decoder(model: ir.Model, info: ModelInfo, tokens: ir.Value) -> Model:
    builder = relax.BlockBuilder()
    position = relax.Var("position", relax.TensorType([], "int64"))
    decoding = Decoding(info.max_seq, position)
    lifter = Lifter(model, builder, decoding)
    batch, seq = lifter.symbol("batch"), lifter.symbol("seq")
    ids = relax.Var("tokens", relax.TensorType([batch, seq], "int64"))
    for value in model.graph.inputs:
        if value is tokens:
            lifter.values[id(value)] = ids
        elif "past" in str(value.name) and len(value.shape or ()) == 4:
            lifter.values[id(value)] = Past(_past_dims(lifter, value.shape))
        else:
            lifter.values[id(value)] = Structural(value)
    with _function(builder, "forward"):
        with builder.dataflow():
            lifter.run()
            logits = _output(lifter, model.graph.outputs[0])
            out = builder.emit_output(relax.Tuple([logits, *decoding.grown]))
        inputs = [ids, position, *decoding.caches]
        builder.emit_func_output(out, [*inputs, *lifter.variables.values()])
    vocab = _vocabulary(logits, str(model.graph.outputs[0].name))
    info = replace(_facts(info, lifter), kind="decoder", vocab=vocab)
    return _finish(builder, "forward", len(inputs), lifter, info)


def _output(lifter: Lifter, value: ir.Value) -> relax.Expr:
    with refusing(f'output "{value.name}": what it is made of does not fit together'):
        return lifter.expr(value)


def _vocabulary(logits: relax.Expr, name: str) -> int:
    """The last dimension of logits [batch, seq, vocabulary]."""
    with refusing(f'output "{name}" is not [batch, seq, vocabulary]'):
        _batch, _seq, vocabulary = shape_of(logits, "logits")
        return int(vocabulary)


def _past_dims(lifter: Lifter, shape: ir.Shape) -> tuple[Any, ...]:
    """[batch, heads, past, channels]; exporters may leave heads and channels open."""
    heads, channels = (
        d if isinstance(d, int) else lifter.symbol(str(d.value or f"cache_{i}"))
        for i, d in ((1, shape[1]), (3, shape[3]))
    )
    return (lifter.symbol("batch"), heads, lifter.symbol("past"), channels)


def _lift_stateless(model: ir.Model, info: ModelInfo) -> Model:
    builder = relax.BlockBuilder()
    lifter = Lifter(model, builder, None)
    inputs = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        _check_input(value)
        dims = [
            d if isinstance(d, int) else lifter.symbol(str(d.value or f"{value.name}_{i}"))
            for i, d in enumerate(value.shape or ())
        ]
        dtype = computed_in(value.dtype)
        shape = [tirx.IntImm("int64", d) if isinstance(d, int) else d for d in dims]
        var = relax.Var(str(value.name), relax.TensorType(shape, dtype))
        inputs.append(var)
        lifter.values[id(value)] = var
    with _function(builder, "main"):
        with builder.dataflow():
            lifter.run()
            outputs = [_output(lifter, o) for o in model.graph.outputs]
            out = builder.emit_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        builder.emit_func_output(out, [*inputs, *lifter.variables.values()])
    return _finish(builder, "main", len(inputs), lifter, _facts(info, lifter))


@contextmanager
def _function(builder: relax.BlockBuilder, name: str) -> Iterator[None]:
    """A function to build. TVM warns of blocks that an error leaves open, so the open one is closed."""
    with builder.function(name):
        try:
            yield
        except BaseException:
            builder._end_block()
            raise


def _check_input(value: ir.Value) -> None:
    if not isinstance(value.type, ir.TensorType) or computed_in(value.dtype) is None:
        raise InvalidModelError(f'input "{value.name}" is of type {value.type}, which cannot be compiled')
    if value.shape is None:
        raise InvalidModelError(f'input "{value.name}" has no declared shape; export with shapes')


def _finish(builder: relax.BlockBuilder, name: str, inputs: int, lifter: Lifter, info: ModelInfo) -> Model:
    module = builder.get()
    function = module[name].with_attr("num_input", inputs)
    module.update_func(module.get_global_var(name), function)
    module = relax.transform.DeadCodeElimination([name])(module)
    if not _has_match_cast(module[name]):  # TVM 0.27 crashes on those with a shape of several symbols
        module = relax.transform.CanonicalizeBindings()(module)
    function = module[name]
    used = {str(v.name) for v in relax.analysis.free_vars(function.body) if isinstance(v, relax.Var)}
    kept = [p for p in list(function.params)[inputs:] if str(p.name) in used]
    trimmed = relax.Function(
        [*list(function.params)[:inputs], *kept],
        function.body,
        function.ret_ty,
        function.is_pure,
        function.attrs,
    )
    module.update_func(module.get_global_var(name), trimmed)
    weights = {str(p.name): lifter.params[str(p.name)] for p in kept}
    counted = (p for name, p in weights.items() if not name.startswith(TABLES))
    info = replace(info, parameters=int(sum(np.prod(p.shape) for p in counted)))
    return Model(module, weights, info, notes=_notes(weights.values()))


def _notes(weights: Iterable[Param]) -> tuple[str, ...]:
    """What the report has to say of weights that arrive as integers."""
    integers = [w for w in weights if any(isinstance(step, Dequantise) for step in w.transforms)]
    if not integers:
        return ()
    return (f"{len(integers)} weights arrive as integers with scales",)


def _has_match_cast(function: relax.Function) -> bool:
    return any(isinstance(b, relax.MatchCast) for block in function.body.blocks for b in block.bindings)


def _facts(info: ModelInfo, lifter: Lifter) -> ModelInfo:
    """Architecture facts from the weights and the attentions that were lifted."""
    attentions: list[tuple[int, int, int]] = lifter.memo.get("attentions", [])
    heads, kv_heads, width = attentions[0] if attentions else (0, 0, 0)
    return replace(
        info,
        layers=len(attentions),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        hidden=next((int(p.shape[1]) for p in lifter.params.values() if len(p.shape) == 2), 0),
        vocab=lifter.memo.get("vocabulary", 0),
        rope="; ".join(lifter.memo.get("rope", ())),
    )
