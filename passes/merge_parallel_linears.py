"""Merge parallel linears: q, k, v and gate, up read one input, so they become one linear each."""

from __future__ import annotations

from itertools import accumulate, takewhile

from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.model import Model
from sdc.ir.ops import linear
from sdc.ir.params import Concat
from sdc.passes.base import PassContext
from sdc.passes.graph import Graph, Linear
from sdc.passes.rewriter import Rewriter, rewrite
from sdc.passes.weights import filled

__all__ = ["MergeParallelLinears", "merged_name"]


class MergeParallelLinears:
    """Linears of the same input become one linear of their rows, and an ``R.split`` of its output.

    An input is then encoded to spikes once, not once a consumer. A part without a bias gets zeros where
    another part has one.
    """

    name = "merge-parallel-linears"

    def run(self, model: Model, ctx: PassContext) -> Model:
        graph = Graph(model)
        groups = {parts[0].x: parts for parts in _by_input(graph) if len(parts) > 1}
        parts_of = {part.var: groups[part.x] for parts in groups.values() for part in parts}
        pieces: dict[relax.Var, relax.Expr] = {}

        def visit(rewriter: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            parts = parts_of.get(var)
            if parts is None:
                return None
            if var not in pieces:
                pieces.update(_merge(rewriter, parts))
            return pieces[var]

        return rewrite(model, visit, graph=graph)

    def check(self, model: Model, ctx: PassContext) -> None:
        for parts in _by_input(Graph(model)):
            if len(parts) > 1:
                names = ", ".join(part.name for part in parts)
                raise PostconditionError(self.name, f"{names} still read the same input")


def merged_name(names: list[str]) -> str:
    """A name for the whole: ``layers.0.attn.{q,k,v}_proj`` gives ``layers.0.attn.qkv``.

    What the names have in common stays, except for a common ending such as ``_proj``; single letters are
    written together, longer parts with an underscore between.
    """
    split = [name.split(".") for name in names]
    head = _common([list(parts) for parts in split])
    tail = _common([list(reversed(parts[head:])) for parts in split])
    middles = ["_".join(parts[head : len(parts) - tail]) for parts in split]
    words = [middle.split("_") for middle in middles]
    ending = _common([list(reversed(word[1:])) for word in words])
    stems = ["_".join(word[: len(word) - ending]) for word in words]
    joined = ("" if all(len(stem) == 1 for stem in stems) else "_").join(stems)
    return ".".join([*split[0][:head], joined, *split[0][len(split[0]) - tail :]])


def _common(rows: list[list[str]]) -> int:
    """How many leading entries all rows share."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))))


def _by_input(graph: Graph) -> list[list[Linear]]:
    groups: dict[relax.Expr, list[Linear]] = {}
    for node in graph.linears():
        groups.setdefault(node.x, []).append(node)
    return list(groups.values())


def _merge(rewriter: Rewriter, parts: list[Linear]) -> dict[relax.Var, relax.Expr]:
    """Emits the merged linear and its split; returns the piece for each part."""
    graph = rewriter.graph
    name = merged_name([part.name for part in parts])
    weights = [graph.param(part.weight) for part in parts]
    weight = rewriter.weight(Concat.param(f"{name}.weight", weights))
    bias = None
    if any(part.bias is not None for part in parts):
        zeros = [filled("zeros", w.shape[0], 0.0) for w in weights]
        biases = [
            z if part.bias is None else graph.param(part.bias) for part, z in zip(parts, zeros, strict=True)
        ]
        bias = rewriter.weight(Concat.param(f"{name}.bias", biases))
    whole = rewriter.emit(linear(rewriter.new(parts[0].x), weight, bias, name=name))
    cuts = list(accumulate(w.shape[0] for w in weights))[:-1]
    split = rewriter.emit(relax.op.split(whole, cuts, axis=-1))
    return {part.var: relax.TupleGetItem(split, i) for i, part in enumerate(parts)}
