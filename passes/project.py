"""Project: a block Hadamard transform before each encoder, its inverse in the weights."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from sdc.errors import PassError, PostconditionError
from sdc.ir.model import Model
from sdc.ir.ops import attributes, hadamard, is_op, shape_of
from sdc.ir.params import HadamardColumns, Param, array_param
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph, Linear, op_name
from sdc.passes.orthogonal import rotates_inputs
from sdc.passes.rewriter import Rewriter, rewrite
from sdc.passes.signs import Sample, best_signs, random_signs, samples_of
from sdc.passes.stored_grids import SMALLEST_BLOCK
from sdc.passes.trace import ValuePath, appended, value_path
from sdc.passes.weights import HadamardRows, WeightEdits

__all__ = ["Project", "block_for"]


class Project:
    """Rotates what is encoded: x becomes H (signs * x) in blocks, entries +-1, additions only.

    QuaRot's online transform (arXiv 2404.00456, section 4), in blocks. Signs are random, one vector a width;
    with ``sign_tries`` above 1, those of linears' inputs are the best of so many by output error.

    - A linear's input goes through ``sdc.hadamard``; its weight becomes W diag(signs) H / block.
    - Q and K are rotated per head after the rotary embedding, with the same signs. q.k grows by the factor
      ``block``, which the attention's scale takes.
    - V is rotated per head by the rows of the weight that make it, for nothing at run time. The attention's
      output then is rotated already, and the output projection takes the inverse. Where V cannot be traced
      to rows, the output projection's input is rotated like any other linear's.

    A linear whose input comes from a stream that is rotated as a whole needs no rotation of its own.

    A block is the largest power of two up to ``options.block`` that divides the width; below 4 there is no
    rotation, and a remark.
    """

    name = "project"

    def run(self, model: Model, ctx: PassContext) -> Model:
        if ctx.options.block < SMALLEST_BLOCK:
            return model
        plan = _Plan(Graph(model), ctx)
        model = rewrite(model, plan.visit, graph=plan.graph)
        for width, names in plan.unrotated.items():
            model = model.with_note(_note(width, names))
        return model

    def check(self, model: Model, ctx: PassContext) -> None:
        if ctx.options.block < SMALLEST_BLOCK:
            return
        graph = Graph(model)
        for linear in graph.linears():
            steps = graph.param(linear.weight).transforms
            done = rotates_inputs(graph.param(linear.weight))
            done = done or any(isinstance(step, HadamardColumns) for step in steps)
            if not done and not _noted(model, linear.name):
                raise PostconditionError(self.name, f"the input of {linear.name} is not rotated")
        for _, call in graph.calls("sdc.attention"):
            append = appended(graph, call.args[1])
            operands = (call.args[0], call.args[1] if append is None else append.args[1])
            rotated = all(is_op(graph.producer_of(x), "sdc.hadamard") for x in operands)
            if not rotated and not _noted(model, op_name(call)):
                raise PostconditionError(self.name, f"Q and K of {op_name(call)} are not rotated")


def block_for(width: int, largest: int) -> int:
    """The largest power of two that is at most ``largest`` and divides ``width``; 0 where that is below 4."""
    block = 1
    while 2 * block <= largest and width % (2 * block) == 0:
        block *= 2
    return block if block >= SMALLEST_BLOCK else 0


def _note(width: int, names: list[str]) -> str:
    why = f"no block of {SMALLEST_BLOCK} or more divides their {width} channels"
    return f"{Project.name}: not rotated, since {why}: {', '.join(names)}"


def _noted(model: Model, name: str) -> bool:
    notes = [note for note in model.notes if note.startswith(f"{Project.name}: not rotated")]
    return any(name in note.rpartition(": ")[2].split(", ") for note in notes)


class _Plan:
    """Decides what is rotated by how much; the visitor does it."""

    def __init__(self, graph: Graph, ctx: PassContext) -> None:
        self.graph, self.ctx = graph, ctx
        self.edits = WeightEdits(graph)
        self.unrotated: dict[int, list[str]] = {}  # width -> operations
        self._signs: dict[int, Param] = {}
        self.rotated: dict[relax.Var, tuple[relax.Expr, int]] = {}  # linear -> (its input, block)
        self.attention: dict[relax.Var, int] = {}  # attention -> block of Q and K
        self.keys: dict[relax.Var, int] = {}  # kv_append of K -> block
        self.emitted: dict[tuple[relax.Expr, int], relax.Var] = {}
        self.tried: dict[int, list[Sample]] = {}  # width -> what its signs are judged on
        if ctx.options.sign_tries > 1:
            self.gather()
        for linear in graph.linears():
            self.plan_linear(linear)
        for var, call in graph.calls("sdc.attention"):
            self.plan_attention(var, call)

    def plan_linear(self, linear: Linear) -> None:
        if rotates_inputs(self.graph.param(linear.weight)):
            return
        values = self.rotated_values(linear)
        if values is not None:
            self.rotate_values(linear, values)
            return
        width = shape_of(linear.x, "linear")[-1]
        block = block_for(width, self.ctx.options.block)
        if block:
            self.rotated[linear.var] = (linear.x, block)
            self.edits.append_step(linear.var, 1, HadamardColumns(self.signs(width), block))
        else:
            self.unrotated.setdefault(width, []).append(linear.name)

    def gather(self) -> None:
        """Samples for the signs of every width that linears' inputs have."""
        linears = [
            n
            for n in self.graph.linears()
            if not rotates_inputs(self.graph.param(n.weight)) and self.rotated_values(n) is None
        ]
        if linears and not self.ctx.calibration:
            raise PassError(
                Project.name, "the best of several signs needs calibration inputs; or set sign_tries 1"
            )
        samples = samples_of(self.graph, self.ctx, linears)
        for linear in linears:
            self.tried.setdefault(shape_of(linear.x, "linear")[-1], []).append(samples[linear.name])

    def rotated_values(self, linear: Linear) -> ValuePath | None:
        """The attention whose values a rotation of their rows serves."""
        values = value_path(self.graph, linear)
        return values if values and block_for(values.head_dim, self.ctx.options.block) else None

    def rotate_values(self, linear: Linear, values: ValuePath) -> None:
        """V by its rows, the output projection by its columns; every head with the same signs."""
        block = block_for(values.head_dim, self.ctx.options.block)
        signs, rows = self.signs(values.head_dim).value(), values.rows
        tiled = array_param(f"{linear.name}.value_signs", np.tile(signs, values.kv_heads))
        step = HadamardRows(tiled, block, rows.start, rows.stop)
        for index in (1, 2):
            self.edits.append_step(rows.linear.var, index, step)
        heads = array_param(f"{linear.name}.signs", np.tile(signs, values.heads))
        self.edits.append_step(linear.var, 1, HadamardColumns(heads, block))

    def plan_attention(self, var: relax.Var, call: relax.Call) -> None:
        head_dim = shape_of(call.args[0], "attention")[-1]
        block = block_for(head_dim, self.ctx.options.block)
        if not block:
            self.unrotated.setdefault(head_dim, []).append(op_name(call))
            return
        self.attention[var] = block
        if appended(self.graph, call.args[1]) is not None:
            self.keys[call.args[1]] = block

    def signs(self, width: int) -> Param:
        """Signs [width], +-1 float32: the same for every operation of this width."""
        if width not in self._signs:
            samples, block = self.tried.get(width), block_for(width, self.ctx.options.block)
            found = best_signs(self.ctx, width, block, samples) if samples else random_signs(self.ctx, width)
            self._signs[width] = array_param(f"signs.{width}", found)
        return self._signs[width]

    def visit(self, rewriter: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var in self.keys:
            cache, x, position = (rewriter.new(a) for a in value.args)
            return relax.Call(
                value.op, [cache, self.emit(rewriter, x, self.keys[var]), position], value.attrs
            )
        if var in self.attention:
            return self.rotated_attention(rewriter, var, value)
        call = self.edits.visit(rewriter, var, value)
        if var in self.rotated and isinstance(call, tvm.ir.Call):
            x = self.emit(rewriter, call.args[0], self.rotated[var][1])
            return relax.Call(call.op, [x, *list(call.args)[1:]], call.attrs)
        return call

    def rotated_attention(self, rewriter: Rewriter, var: relax.Var, value: relax.Call) -> relax.Call:
        block, attrs = self.attention[var], attributes(value)
        q, k, *rest = (rewriter.new(a) for a in value.args)
        q = self.emit(rewriter, q, block)
        if value.args[1] not in self.keys:
            k = self.emit(rewriter, k, block)
        attrs["scale"] = attrs["scale"] / block
        return relax.Call(value.op, [q, k, *rest], tvm.ir.make_node("ir.DictAttrs", **attrs))

    def emit(self, rewriter: Rewriter, x: relax.Expr, block: int) -> relax.Var:
        """The rotated x; once, however many operations read it."""
        if (x, block) not in self.emitted:
            signs = rewriter.weight(self.signs(shape_of(x, "hadamard")[-1]))
            self.emitted[x, block] = rewriter.emit(hadamard(x, signs, block=block))
        return self.emitted[x, block]
