"""Fold norm gamma: the gains (and shifts) of norms go into the linears that follow."""

from __future__ import annotations

from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.model import Model
from sdc.ir.ops import is_op
from sdc.ir.params import AddVector, MatVec, Param, ScaleColumns
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.graph import Graph
from sdc.passes.rewriter import rewrite
from sdc.passes.stored_grids import aligns, kept_grid
from sdc.passes.weights import WeightEdits, filled, is_filled

__all__ = ["FoldNormGamma", "feeds_linears_only", "is_folded", "norms"]


class FoldNormGamma:
    """y = norm(x) * gain (+ shift), W y + b  becomes  norm(x), (W diag(gain)) norm(x) + (b + W shift).

    What is encoded to spikes is then the normalised direction alone. The first half of gamma-SQP; QuaRot
    (arXiv 2404.00456, section 4) folds RMSNorm's gain the same way. A norm whose output also feeds something
    other than linears keeps its gain (a remark says so). So does one before weights that arrive as integers,
    where neither smoothing nor rotation would give them other values anyway.
    """

    name = "fold-norm-gamma"

    def run(self, model: Model, ctx: PassContext) -> Model:
        graph, kept = Graph(model), []
        edits = WeightEdits(graph)
        for var, call in norms(graph):
            if is_folded(graph, call):
                continue
            if _precedes_kept_weights(graph, var, ctx.options):
                continue
            if feeds_linears_only(graph, var):
                _fold(graph, edits, var)
            else:
                kept.append(f"{call.args[1].name}: {_readers(graph, var)}")
        model = rewrite(model, edits.visit, graph=graph)
        if kept:
            model = model.with_note(
                f"{self.name}: {len(kept)} norms keep their gain, since their output feeds more than linears "
                f"({'; '.join(kept[:3])}{'; ...' if len(kept) > 3 else ''})"
            )
        return model

    def check(self, model: Model, ctx: PassContext) -> None:
        graph = Graph(model)
        for var, call in norms(graph):
            if _precedes_kept_weights(graph, var, ctx.options):
                continue
            if feeds_linears_only(graph, var) and not is_folded(graph, call):
                raise PostconditionError(self.name, f"{call.args[1].name} could be folded and was not")


def norms(graph: Graph) -> list[tuple[relax.Var, relax.Call]]:
    """The norms over channels whose gain (and shift) are weights."""
    found = [*graph.calls("nn.rms_norm"), *graph.calls("nn.layer_norm")]
    return [(v, c) for v, c in found if all(a in graph.weights for a in c.args[1:]) and _last_axis(c)]


def _last_axis(call: relax.Call) -> bool:
    axes = [int(a) for a in call.attrs.axes]
    return axes in ([-1], [len(call.args[0].ty.shape.values) - 1])


def is_folded(graph: Graph, call: relax.Call) -> bool:
    """Whether a norm's gain is one and its shift nought, known without loading them."""
    gain, *shift = (graph.param(a) for a in call.args[1:])
    return is_filled(gain, 1.0) and all(is_filled(s, 0.0) for s in shift)


def feeds_linears_only(graph: Graph, var: relax.Var) -> bool:
    """Whether linears, and nothing else, read a norm's output."""
    users = graph.users(var)
    return bool(users) and var not in graph.returned and all(is_op(u, "sdc.linear") for u in users)


def _precedes_kept_weights(graph: Graph, var: relax.Var, options: PassOptions) -> bool:
    if aligns(options) or not feeds_linears_only(graph, var):
        return False
    weights = (graph.param(graph.producer[user].args[1]) for user in graph.consumers[var])
    return any(kept_grid(weight, options, options.group) is not None for weight in weights)


_NAMES = {
    "add": "a sum (post-norm, or a norm after the layer)",
    "sdc.linear": "linears",
    "sdc.rotary": "a rotary embedding (norm of queries or keys)",
    "reshape": "another shape of it (experts)",
}


def _readers(graph: Graph, var: relax.Var) -> str:
    """What reads a norm's output, in words."""
    kinds = [str(getattr(getattr(u, "op", None), "name", "a tuple")) for u in graph.users(var)]
    words = [_NAMES.get(kind, kind) for kind in (k.removeprefix("relax.") for k in kinds)]
    return ", ".join(dict.fromkeys(words + (["the result"] if var in graph.returned else [])))


def _fold(graph: Graph, edits: WeightEdits, var: relax.Var) -> None:
    """Moves gain and shift of the norm ``var`` into every linear that reads it."""
    gain, *shift = (graph.param(a) for a in graph.producer[var].args[1:])
    size = gain.shape[0]
    for user in graph.consumers[var]:
        if shift and not is_filled(shift[0], 0.0):
            edits.set(user, 2, _shifted_bias(edits, user, shift[0]))
        edits.append_step(user, 1, ScaleColumns(gain))
    edits.set(var, 1, filled("ones", size, 1.0))
    if shift:
        edits.set(var, 2, filled("zeros", size, 0.0))


def _shifted_bias(edits: WeightEdits, linear: relax.Var, shift: Param) -> Param:
    """b + W shift, with W before the gain is folded."""
    weight = edits.graph.param(edits.graph.producer[linear].args[1])
    product = weight.then(MatVec(shift), name=edits.own_name(linear, 2), dtype="float32")
    bias = edits.find(linear, 2)
    return product if bias is None else product.then(AddVector(bias))
