"""Rotate residual: an orthogonal transform of the whole residual stream, folded into the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_op, shape_of
from sdc.ir.params import Param, array_param
from sdc.passes.base import PassContext
from sdc.passes.fold_norm_gamma import feeds_linears_only, is_folded, norms
from sdc.passes.graph import Graph, op_name
from sdc.passes.orthogonal import Rotate, rotates_inputs
from sdc.passes.rewriter import rewrite
from sdc.passes.weights import WeightEdits

__all__ = ["RotateResidual"]


class RotateResidual:
    """The stream x becomes x Q everywhere, for nothing at run time (QuaRot, arXiv 2404.00456, section 4).

    Q goes into the embedding table, into the output side of every linear that adds to the stream, and into
    the input side of every linear behind a norm of it: RMS norms without a gain commute with Q. It is a
    randomised Hadamard matrix, see :mod:`sdc.passes.orthogonal`.

    That needs a stream made of rows of tables, results of linears, and sums of them, which nothing reads but
    sums and RMS norms whose gain is folded and whose output feeds linears alone. Another stays as it is
    (LayerNorm subtracts a mean, which Q moves; norms behind a layer have gains of their own), and a remark
    says why.
    """

    name = "rotate-residual"

    def run(self, model: Model, ctx: PassContext) -> Model:
        if not ctx.options.rotate_residual:
            return model
        graph = Graph(model)
        edits, seen, kept = WeightEdits(graph), set[relax.Var](), dict[str, None]()
        for norm, _ in norms(graph):
            stream = _Stream(graph)
            start = graph.producer[norm].args[0]
            if start in seen:
                continue
            stream.follow(start)
            seen.update(stream.values)
            if stream.obstacle:
                kept[stream.obstacle] = None
            else:
                _fold(edits, stream, _signs(stream.width, ctx))
        model = rewrite(model, edits.visit, graph=graph)
        if kept:
            model = model.with_note(f"{self.name}: not rotated: {'; '.join(list(kept)[:3])}")
        return model

    def check(self, model: Model, ctx: PassContext) -> None:
        if not ctx.options.rotate_residual or any(note.startswith(self.name) for note in model.notes):
            return
        graph = Graph(model)
        behind = {user for norm, _ in norms(graph) for user in graph.consumers.get(norm, ())}
        for linear in graph.linears():
            if linear.var in behind and not rotates_inputs(graph.param(linear.weight)):
                raise PostconditionError(self.name, f"the stream that {linear.name} reads is not rotated")


@dataclass
class _Stream:
    """Values that add up to one stream, what makes them and what reads them.

    Attributes:
        values: Variables that hold the stream or a summand of it.
        tables: Lookups whose rows are summands.
        writers: Linears whose results are summands.
        norms: Norms that read the stream.
        obstacle: Why it cannot be rotated, "" where it can.
    """

    graph: Graph
    values: set[relax.Var] = field(default_factory=set)
    tables: list[relax.Var] = field(default_factory=list)
    writers: list[relax.Var] = field(default_factory=list)
    norms: list[relax.Var] = field(default_factory=list)
    obstacle: str = ""
    width: int = 0

    def follow(self, start: relax.Expr) -> None:
        """Collects everything that is connected with ``start`` by sums."""
        self.width = shape_of(start, self.__class__.__name__)[-1]
        waiting = [start]
        while waiting and not self.obstacle:
            value = waiting.pop()
            if value in self.values:
                continue
            self.values.add(value)
            waiting += self.made_of(value)
            if value in self.graph.returned:
                self.obstacle = f"{value.name} is a result of the model"
            for user in self.graph.consumers.get(value, ()):
                waiting += self.read_by(user)

    def made_of(self, value: relax.Var) -> list[relax.Var]:
        """The summands of a value that are in the stream themselves."""
        call = self.graph.producer_of(value)
        if is_op(call, "sdc.linear"):
            self.writers.append(value)
        elif is_op(call, "take") and self.graph.weight(call.args[0]) and attributes(call)["axis"] == 0:
            self.tables.append(value)
        elif is_op(call, "add") and all(self.is_stream(a) for a in call.args):
            return list(call.args)
        elif is_op(call, "reshape") and self.is_stream(call.args[0]):
            return [call.args[0]]
        else:
            self.obstacle = f"{value.name} is made by {_word(call)}"
        return []

    def read_by(self, user: relax.Var) -> list[relax.Var]:
        """The user where it belongs to the stream."""
        call = self.graph.producer[user]
        if (
            is_op(call, "nn.rms_norm")
            and is_folded(self.graph, call)
            and feeds_linears_only(self.graph, user)
        ):
            self.norms.append(user)
            return []
        if (is_op(call, "add") or is_op(call, "reshape")) and self.is_stream(user):
            return [user]
        self.obstacle = f"{op_name(call) or user.name} ({_word(call)}) reads the stream"
        return []

    def is_stream(self, value: relax.Expr) -> bool:
        """Whether a value could belong to it: computed, and as wide."""
        known = isinstance(value, relax.Var) and value not in self.graph.weights
        return known and shape_of(value, "stream")[-1] == self.width


def _fold(edits: WeightEdits, stream: _Stream, signs: Param) -> None:
    for lookup in stream.tables:
        edits.append_step(lookup, 0, Rotate(signs, 1))
    for writer in stream.writers:
        for index in (1, 2):
            edits.append_step(writer, index, Rotate(signs, 0))
    for norm in dict.fromkeys(stream.norms):
        for reader in edits.graph.consumers[norm]:
            edits.append_step(reader, 1, Rotate(signs, 1))


def _signs(width: int, ctx: PassContext) -> Param:
    """Random signs [width], +-1 float32: the same for every stream of this width."""
    name = f"rotation.{width}"
    bits = ctx.random(name).integers(0, 2, width)
    return array_param(name, (2 * bits - 1).astype(np.float32))


def _word(call: object) -> str:
    op = getattr(call, "op", None)
    return str(getattr(op, "name", "an input")).removeprefix("relax.")
