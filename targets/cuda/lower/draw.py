"""The function that draws tokens from logits which another one has left on the device."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.op import ccl

from sdc.targets.cuda.cuts import WORKER, workers_of
from sdc.targets.cuda.kernels.draw import DrawToken
from sdc.targets.cuda.kernels.tables import SpreadShare
from sdc.targets.cuda.kernels.weigh import CUTS, LogitTops, TokenWeights, pieces_of
from sdc.targets.cuda.lower.body import ALL_REDUCE, Scheduled

__all__ = ["DRAW", "Drawing"]

DRAW = "draw"
"""``draw(logits [1, n, width] float32, settings [n, 3] float64, token [n, 1] int64, position () int64[,
worker [1] int32])`` writes tokens into ``token``, which it gives, and moves the position on.

Workers of a sharded program say which one they are. Settings of a row are the reciprocal of the temperature
(0: the likeliest), top-p, and a uniform number.
"""


class Drawing:
    """Emits :data:`DRAW` into the module of ``owner``, a :class:`sdc.targets.cuda.lower.lowering.Lowering`.

    Args:
        width: Of logits: the vocabulary, or a worker's share of it.
    """

    def __init__(self, owner: Any, vocab: int, width: int) -> None:
        self.owner, self.builder = owner, owner.builder
        self.vocab, self.width = vocab, width
        self.rows = tirx.Var("seq", "int64")
        self.launches = 0

    def add(self, most: int) -> None:
        """The function, of ``most`` rows at most."""
        n = self.rows
        logits = _tensor("logits", [1, n, self.width], "float32")
        settings = _tensor("settings", [n, 3], "float64")
        token, position = _tensor("token", [n, 1], "int64"), _tensor("position", [], "int64")
        worker = [_tensor(WORKER, [1], "int32")] if WORKER in self.owner.weights.params else []
        attrs = {"tir_var_upper_bound": {"seq": most}}
        with self.builder.function(DRAW, [logits, settings, token, position, *worker], attrs=attrs):
            with self.builder.dataflow():
                flat = self.builder.emit(relax.op.reshape(logits, [n, self.width]))
                whole = flat if self.width == self.vocab else self.gathered(flat, worker[0])
                result = self.builder.emit_output(self.drawn(whole, settings, token, position))
            self.builder.emit_func_output(result)

    def gathered(self, logits: Any, worker: Any) -> Any:
        """The logits of all workers, on every one of them."""
        spec = SpreadShare(self.width, workers_of(self.owner.weights.source))
        self.width *= spec.workers
        mine = self.call(spec, [logits, worker], [([self.rows, self.width], "float32")])
        self.record("logits of a share", "copy", spec)
        self.record("logits of all shares", ALL_REDUCE)
        self.launches += 1
        return self.builder.emit(ccl.allreduce(mine, "sum", False))

    def drawn(self, logits: Any, settings: Any, token: Any, position: Any) -> Any:
        n, pieces = self.rows, pieces_of(self.vocab)
        specs = LogitTops(self.vocab, self.width), TokenWeights(self.vocab, self.width), DrawToken(self.vocab)
        self.record("next token", DRAW, *specs)
        tops = self.call(specs[0], [logits], [([n, pieces], "int32")])
        of_pieces = [n, len(CUTS), pieces]
        out = [([n, self.vocab], "float32"), (of_pieces, "int64"), (of_pieces, "int32")]
        made = self.call(specs[1], [logits, tops, settings], out)
        weighed = [self.builder.emit(relax.TupleGetItem(made, i)) for i in range(len(out))]
        args = [*weighed, tops, settings, token, position]
        own = [_type([n, self.vocab], dtype) for dtype in ("float32", "int32")]
        places = [args.index(token), args.index(position), -1, -1]
        kernel = self.kernel(specs[2])
        call = relax.op.call_tir_inplace(kernel, relax.Tuple(args), places, [token.ty, position.ty, *own])
        self.launches += 1
        return self.builder.emit(relax.TupleGetItem(self.builder.emit(call), 0))

    def call(self, spec: Any, args: list[Any], out: list[tuple[list[Any], str]]) -> Any:
        types = [_type(shape, dtype) for shape, dtype in out]
        self.launches += 1
        return self.builder.emit(
            relax.call_tir(self.kernel(spec), args, types[0] if len(types) == 1 else types)
        )

    def kernel(self, spec: Any) -> tvm.ir.GlobalVar:
        made: tvm.ir.GlobalVar = self.owner.kernel(spec, spec.generate)
        return made

    def record(self, op: str, schedule: str, *specs: Any) -> None:
        names = tuple(str(self.kernel(spec).name_hint) for spec in specs)
        self.owner.schedules.append(Scheduled(DRAW, op, schedule, names))


def _type(shape: list[Any], dtype: str) -> relax.TensorType:
    return relax.TensorType([tirx.IntImm("int64", d) if isinstance(d, int) else d for d in shape], dtype)


def _tensor(name: str, shape: list[Any], dtype: str) -> relax.Var:
    return relax.Var(name, _type(shape, dtype))
