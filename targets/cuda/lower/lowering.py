"""The functions of a program for CUDA: those of every target, ``greedy``, ``batch`` and ``draw``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.op import ccl

from sdc.ir.ops import shape_of
from sdc.targets.cuda.cuts import WORKER, workers_of
from sdc.targets.cuda.kernels.likeliest import Likeliest, LikeliestOfShare, LikeliestOfShares
from sdc.targets.cuda.lower.body import ALL_REDUCE, FALLBACK, CudaBody, Scheduled
from sdc.targets.cuda.lower.draw import DRAW, Drawing
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.rebuild import Rebuild
from sdc.targets.fused.signature import State

__all__ = ["BATCH", "DRAW", "Lowering"]

BATCH = "batch"
"""The function that decodes one token of each of several sequences."""


class Lowering(Rebuild):
    """Lowers functions for CUDA; ``schedules`` says how each operation was lowered."""

    def __init__(self, weights: PackedWeights) -> None:
        super().__init__(weights, CudaBody)
        self.schedules: list[Scheduled] = []

    def kernel(self, spec: Any, make: Callable[[], tirx.PrimFunc]) -> tvm.ir.GlobalVar:
        """The kernel of a specification, made once a module; TVM's default schedules leave it alone."""
        return self.share(spec, lambda: make().with_attr("tirx.is_scheduled", True))

    def add_greedy(self, function: relax.Function, vocab: int) -> None:
        """``greedy``: the likeliest next token takes the place of the token; no logits leave the device.

        Args:
            vocab: Tokens, of which the function's logits may be a worker's share.
        """
        self.vocab = vocab
        self.add("greedy", function, emitter=_Greedy)

    def add_batch(self, function: relax.Function, most: int) -> None:
        """:data:`BATCH`: every row is the next token of a sequence of its own, ``most`` rows at most.

        Its position argument is int64 [2, n], positions and numbers of sequences; its caches have the
        sequences' axis in front.
        """
        self.add(BATCH, function, bound=most, emitter=_Batch)

    def add_draw(self, vocab: int, most: int) -> None:
        """:data:`DRAW`: a token of each of ``most`` rows of logits at most, which ``decode`` has left."""
        width = int(shape_of(self.builder.get()["decode"].body.body, "logits")[-1])
        drawing = Drawing(self, vocab, width)
        drawing.add(most)
        self.launches[DRAW] = drawing.launches

    def is_whole(self, function: str) -> bool:
        """Whether every operation of a function has a kernel of ours, sums over workers aside."""
        return all(s.schedule != FALLBACK for s in self.schedules if s.function == function)


class _Greedy(CudaBody):
    """One step of greedy decoding: the token input becomes the next token, the position moves on."""

    def emit(self) -> relax.Expr:
        result = super().emit()
        logits = result.fields[0] if isinstance(result, relax.Tuple) else result
        rows = int(shape_of(logits, "logits")[-1])
        flat = self.builder.emit(relax.op.reshape(logits, [1, rows]))
        token, position = self.inputs[:2]
        found: Any = flat
        choice: Likeliest | LikeliestOfShares = Likeliest(rows)
        if rows != self.owner.vocab:
            found, choice = self.best_of_shares(flat, rows), LikeliestOfShares(self.workers())
        kernel = self.owner.kernel(choice, choice.generate)
        self.record("next token", "argmax", kernel)
        return self.item(self.call(kernel, [found, token, position], [], fresh_from=1), 0)

    def best_of_shares(self, logits: Any, rows: int) -> Any:
        """What every worker found likeliest of its share, on all of them."""
        spec = LikeliestOfShare(self.owner.vocab, rows, self.workers())
        kernel = self.owner.kernel(spec, spec.generate)
        self.record("next token of a share", "argmax", kernel)
        args = [logits, self.owner.weights.var(WORKER)]
        mine = self.call(kernel, args, [([spec.workers, 2], "int32")])
        self.launches += 1
        self.record("tokens of all shares", ALL_REDUCE)
        return self.builder.emit(ccl.allreduce(mine, "sum", False))

    def workers(self) -> int:
        return workers_of(self.owner.weights.source)


class _Batch(CudaBody):
    """One token of each of several sequences, side by side as the tokens of a prompt are elsewhere."""

    apart = True

    def input(self, var: Any) -> relax.Var:
        """Positions become those of all rows; caches those of all sequences."""
        if var.same_as(self.graph.inputs[1]):
            rows = shape_of(self.graph.inputs[0], "tokens")[-1]
            new = relax.Var(var.name, relax.TensorType([2, rows], "int64"))
        elif var in self.in_place:
            shape, dtype = self.in_place[var]
            new = relax.Var(var.name, relax.TensorType([self.sequences(), *shape], dtype))
        else:
            return super().input(var)
        self.data[var] = new
        return new

    def sequences(self) -> Any:
        """How many there are: one length for all caches."""
        if not hasattr(self, "_sequences"):
            self._sequences = tirx.Var("sequences", "int64")
        return self._sequences

    def states(self) -> list[State]:
        """One sequence's, as the other functions have them."""
        return list(self.owner.states)

    def place(self, position: Any) -> Any:
        return self.data[self.graph.root(position)]
