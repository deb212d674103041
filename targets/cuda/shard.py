"""Tensor parallelism: one decoder over several devices, each with a share of the heads and channels.

Megatron's scheme (Shoeybi et al., arXiv 1909.08053, section 3): a linear that only heads or gated channels
read is cut by its output rows, one that reads cut channels by its input columns, and the partial outputs of
the workers are added by an all-reduce, two a layer. Cuts lie between groups of channels, so every int32
accumulator of the whole program is an accumulator of exactly one worker, bit for bit; only the float sum over
groups has another order.

The vocabulary is cut too: of the embedding a worker holds some rows, and one more all-reduce adds up what
each found; of the head it holds the same rows, and its logits are a share of the program's. Where the workers
do not divide the vocabulary, the last one's share ends in rows of zeros.

All workers run the same module; what differs are the weights, cut by a transform that is appended to each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.op import ccl

from sdc.errors import TargetError
from sdc.ir.model import Model, ModelInfo
from sdc.ir.ops import attributes, dtype_of, is_op, readout, shape_of, take_share
from sdc.ir.params import Param
from sdc.targets.cuda.cuts import WORKER, Cut, LinearShare, cut_param, worker_param
from sdc.targets.fused.graph import Graph

__all__ = ["check_heads", "linear_shares", "shard"]

# What may lie between a linear that is cut by rows and the linears that read it.
_PASSES = {
    "relax.reshape",
    "relax.split",
    "relax.multiply",
    "relax.nn.silu",
    "relax.sdc.rotary",
    "relax.sdc.hadamard",
    "relax.sdc.spike_encode",
    "relax.sdc.kv_append",
    "relax.sdc.spike_attention",
}


def check_heads(info: ModelInfo, workers: int) -> None:
    """What can be said of a model before its passes have run.

    Raises:
        TargetError: It is no decoder, or its heads do not divide among the workers.
    """
    if info.kind != "decoder":
        raise TargetError("only language models run on several GPUs; leave --shards out")
    for name, count in (("attention heads", info.heads), ("key heads", info.kv_heads)):
        if count % workers:  # 0 where unknown
            raise TargetError(
                f"the model's {count} {name} do not divide among {workers} workers; --shards must divide them"
            )


def shard(model: Model, workers: int) -> tuple[Model, ...]:
    """One model a worker: the same module, other weights.

    Args:
        model: A decoder after the spike rewrite.

    Raises:
        TargetError: Heads, groups or Hadamard blocks do not divide among the workers.
    """
    if workers < 2:
        raise TargetError(f"sharding is for two workers or more, not {workers}")
    check_heads(model.info, workers)
    sharding = _Sharding(model, workers)
    module = sharding.run()
    return tuple(replace(model, module=module, params=sharding.params(w)) for w in range(workers))


def linear_shares(whole: Model, share: Model) -> list[LinearShare]:
    """Of every linear in the order of the program.

    Args:
        share: One worker's part of the model ``whole``.
    """
    found = []
    for name in _linear_weights(whole):
        cuts = (step for step in share.params[name].transforms if isinstance(step, Cut))
        found.append(LinearShare(whole.params[name].shape[0], any(cut.axis == 1 for cut in cuts)))
    return found


def _linear_weights(model: Model) -> list[str]:
    graph = Graph(model.module[model.entry])
    readouts = (b.value.args[0] for b in graph.bindings if is_op(b.value, "sdc.readout"))
    calls = (graph.call(acc, "sdc.spike_accumulate") for acc in readouts)
    return [str(graph.weight(call.args[1]).name) for call in calls if call is not None]


@dataclass(frozen=True)
class _Split:
    """A tensor's axis that is cut, and its segments."""

    axis: int
    segments: tuple[int, ...]


class _Sharding:
    def __init__(self, model: Model, workers: int) -> None:
        self.model, self.workers = model, workers
        self.graph = Graph(model.module[model.entry])
        self.builder = relax.BlockBuilder()
        self.new: dict[Any, Any] = {}
        self.split: dict[Any, _Split | None] = {}
        self.cuts: dict[str, _Split] = {}
        self.worker = relax.Var(WORKER, relax.TensorType([1], "int32"))

    def run(self) -> tvm.IRModule:
        """The module of every worker."""
        function = self.graph.function
        for var in function.params:
            self.new[var], self.split[var] = var, None
        self.decide()
        with self.builder.function(self.model.entry, attrs=dict(function.attrs)):
            with self.builder.dataflow():
                for binding in self.graph.bindings:
                    self.visit(binding)
                result = self.builder.emit_output(self.atom(function.body.body))
            params = [self.new[v] for v in function.params]
            self.builder.emit_func_output(result, [*params, self.worker])
        return self.builder.get()

    def params(self, worker: int) -> dict[str, Param]:
        """The weights of one worker."""
        made = {**self.model.params, WORKER: worker_param(worker, self.workers)}
        for name, cut in self.cuts.items():
            made[name] = cut_param(made[name], Cut(cut.axis, cut.segments, worker, self.workers))
        return made

    # Which inputs are cut

    def decide(self) -> None:
        """Finds the linears to cut by rows; caches and weights behind them get their shares' shapes."""
        self.columns: dict[Any, tuple[int, ...]] = {}
        for binding in self.graph.bindings:
            if is_op(binding.value, "sdc.readout"):
                segments = self.cut_by_rows(binding.var) or self.cut_head(binding.var)
                if segments:
                    self.columns[binding.var] = segments
        for binding in self.graph.bindings:
            if is_op(binding.value, "sdc.kv_append"):
                self.share_input(binding.value.args[0], 1)

    def cut_by_rows(self, out: Any) -> tuple[int, ...]:
        """The segments of a linear's output where only cut channels are made of it, else nothing."""
        segments: tuple[int, ...] = ()
        work, seen = [self.graph.root(out)], set[Any]()
        while work:
            var = work.pop()
            if var in seen:
                continue
            seen.add(var)
            if var in self.graph.returned and not is_op(self.graph.producer[var], "sdc.kv_append"):
                return ()
            for reader in self.graph.readers.get(var, []):
                value = self.graph.producer[reader]
                if isinstance(value, relax.TupleGetItem):
                    work.append(reader)
                elif is_op(value, "sdc.spike_accumulate") or is_op(value, "sdc.readout"):
                    continue
                elif isinstance(value, relax.Call) and str(value.op.name) in _PASSES:
                    if is_op(value, "split"):
                        segments = tuple(int(shape_of(v, "split")[-1]) for v in self.items(reader))
                    work.append(self.graph.root(reader))
                else:
                    return ()
        return segments or (int(shape_of(out, "shard")[-1]),)

    def cut_head(self, out: Any) -> tuple[int, ...]:
        """The vocabulary, filled up to a multiple of the workers, where a linear gives the logits."""
        if not out.same_as(self.graph.outputs[0]) or self.graph.readers.get(out):
            return ()
        return (self.filled_up(int(shape_of(out, "head")[-1])),)

    def filled_up(self, rows: int) -> int:
        return -(-rows // self.workers) * self.workers

    def items(self, var: Any) -> list[Any]:
        found = self.graph.items(var)
        return [found[i] for i in sorted(found)]

    def share_input(self, var: Any, axis: int) -> None:
        """A cache of a share of the heads."""
        shape = shape_of(var, "cache")
        shape[axis] = self.divided(int(shape[axis]), f"the heads of {var.name}")
        self.new[var] = relax.Var(var.name, relax.TensorType(shape, var.ty.dtype))
        self.split[var] = _Split(axis, (int(shape_of(var, "cache")[axis]),))

    def divided(self, size: int, what: str) -> int:
        if size % self.workers:
            raise TargetError(
                f"{what} ({size}) do not divide among {self.workers} workers; --shards must divide them"
            )
        return size // self.workers

    def cut_weight(self, var: Any, axis: int, segments: tuple[int, ...]) -> Any:
        """A weight with a share of an axis; one that all its readers cut alike is cut once."""
        name, cut = str(self.graph.weight(var).name), _Split(axis, segments)
        if self.cuts.setdefault(name, cut) != cut:
            raise TargetError(f"{name} is read by two operations that want it cut differently")
        root = self.graph.weight(var)
        if self.split[root] is None:
            shape = [int(d) for d in shape_of(root, "weight")]
            for size in segments:
                self.divided(size, f"{size} channels of {name}")
            shape[axis] = sum(segments) // self.workers
            self.new[root] = relax.Var(root.name, relax.TensorType(shape, root.ty.dtype))
            self.split[root] = cut
        return self.new[root]

    # One binding after the other

    def atom(self, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.new.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.atom(f) for f in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.atom(expr.tuple_value), expr.index)
        return expr

    def visit(self, binding: Any) -> None:
        var, value = binding.var, binding.value
        if is_op(value, "sdc.spike_accumulate"):
            reader = self.graph.sole_reader(var)
            if reader in self.columns or self.split.get(value.args[0]) is not None:
                return  # emitted with its readout, which knows how the weight is cut
        rule = _RULES.get(str(value.op.name)) if isinstance(value, relax.Call) else None
        state = self.state_of(value)
        anywhere = rule in (_Sharding.linear, _Sharding.take)
        if rule is not None and (state is not None or var in self.columns or anywhere):
            made, split = rule(self, var, value, state)
        elif isinstance(value, relax.Call):
            made = relax.Call(value.op, [self.atom(a) for a in value.args], value.attrs, value.ty_args)
            split = self.elementwise(value, state)
        else:
            made, split = self.atom(value), self.projected(value, state)
        self.new[var] = self.builder.emit(made)
        self.split[var] = split

    def state_of(self, value: Any) -> _Split | None:
        args = value.args if isinstance(value, relax.Call) else [value]
        if isinstance(value, relax.TupleGetItem):
            args = [value.tuple_value]
        found = [self.split.get(a) for a in args if isinstance(a, relax.Var) and a not in self.graph.weights]
        return next((s for s in found if s is not None), None)

    def projected(self, value: Any, state: _Split | None) -> _Split | None:
        """An item of a split has one of its segments."""
        if state is None or not isinstance(value, relax.TupleGetItem):
            return state
        producer = self.graph.producer.get(value.tuple_value)
        if is_op(producer, "split"):
            return _Split(state.axis, (state.segments[value.index],))
        return state

    def elementwise(self, value: Any, state: _Split | None) -> _Split | None:
        if state is not None and str(value.op.name) not in _PASSES | {"relax.sdc.spike_accumulate"}:
            raise TargetError(f"{value.op.name} reads channels that are cut, and has no rule for it")
        return state

    def take(self, _var: Any, call: Any, state: Any) -> tuple[Any, Any]:
        """Rows of the embedding: the workers add up what each holds of them. Other tables stay whole."""
        table, index = call.args
        if not self.is_embedding(table):
            return relax.Call(call.op, [self.atom(a) for a in call.args], call.attrs), state
        own = self.cut_weight(table, 0, (self.filled_up(int(shape_of(table, "take")[0])),))
        mine = self.builder.emit(take_share(own, self.atom(index), self.worker))
        return ccl.allreduce(mine, "sum", False), None

    def is_embedding(self, table: Any) -> bool:
        """Whether a weight has rows that are looked up by token, and nothing else is done with it."""
        root = self.graph.weight(table)
        if root is None or len(shape_of(root, "take")) != 2 or dtype_of(root) != "float32":
            return False
        calls = [self.graph.producer[reader] for reader in self.graph.readers[root]]
        return all(
            is_op(call, "take")
            and call.args[0].same_as(root)
            and int(attributes(call)["axis"] or 0) == 0
            and self.graph.root(call.args[1]).same_as(self.graph.inputs[0])
            for call in calls
        )

    def multiply(self, _var: Any, call: Any, state: Any) -> tuple[Any, Any]:
        args = [
            self.cut_weight(a, 0, state.segments) if self.graph.weight(a) is not None else self.atom(a)
            for a in call.args
        ]
        return relax.Call(call.op, args, call.attrs), state

    def hadamard(self, _var: Any, call: Any, state: Any) -> tuple[Any, Any]:
        x, signs = call.args
        if state.axis != len(shape_of(x, "hadamard")) - 1:
            return relax.Call(call.op, [self.atom(x), self.atom(signs)], call.attrs), state
        self.whole(state, attributes(call)["block"], "Hadamard blocks")
        return relax.Call(
            call.op, [self.atom(x), self.cut_weight(signs, 0, state.segments)], call.attrs
        ), state

    def encode(self, _var: Any, call: Any, state: Any) -> tuple[Any, Any]:
        if state.axis == len(shape_of(call.args[0], "encode")) - 1:
            self.whole(state, attributes(call)["group"], "groups that share a threshold")
        return relax.Call(call.op, [self.atom(call.args[0])], call.attrs), state

    def whole(self, state: _Split, size: int, what: str) -> None:
        for segment in state.segments:
            if self.divided(segment, what) % size:
                raise TargetError(
                    f"{what} of {size} channels would lie on two workers of {self.workers}; compile with "
                    "fewer --shards, or a smaller --group or --block"
                )

    def reshape(self, _var: Any, call: Any, state: Any) -> tuple[Any, Any]:
        """Channels to heads and back: the cut follows the outermost of the axes that it becomes."""
        old, new = shape_of(call.args[0], "reshape"), shape_of(_var, "reshape")
        axis = min(state.axis, len(new) - 1)
        if len(new) > len(old):
            axis = state.axis
        if not isinstance(new[axis], int):
            raise TargetError(f"a reshape of {old} to {new} hides the channels that are cut")
        shape = list(new)
        shape[axis] = self.divided(new[axis], "channels")
        return relax.op.reshape(self.atom(call.args[0]), shape), _Split(axis, (new[axis],))

    def split_op(self, _var: Any, call: Any, state: Any) -> tuple[Any, Any]:
        cuts = np.cumsum([self.divided(s, "channels") for s in state.segments])[:-1]
        x = self.atom(call.args[0])
        return relax.op.split(x, [int(c) for c in cuts], axis=attributes(call)["axis"]), state

    def linear(self, var: Any, call: Any, state: Any) -> tuple[Any, Any]:
        """A readout with the accumulate before it."""
        accumulate = self.graph.call(call.args[0], "sdc.spike_accumulate")
        if accumulate is None:
            return relax.Call(call.op, [self.atom(a) for a in call.args], call.attrs), state
        counts = self.split.get(accumulate.args[0])
        if counts is None and var not in self.columns:
            return readout(*(self.atom(a) for a in call.args)), None
        if counts is None:
            segments = self.columns[var]
            weights = [self.cut_weight(w, 0, segments) for w in (accumulate.args[1], *call.args[2:])]
            acc = self.accumulated(accumulate, weights[0])
            rank = len(shape_of(var, "linear"))
            return readout(acc, self.atom(call.args[1]), *weights[1:]), _Split(rank - 1, segments)
        return self.partial(var, call, accumulate, counts), None

    def partial(self, _var: Any, call: Any, accumulate: Any, counts: _Split) -> Any:
        """A linear of a share of the input channels; the bias is added once, after the sum over workers."""
        width = int(shape_of(accumulate.args[1], "weight")[1])
        self.whole(_Split(1, (width,)), attributes(accumulate)["group"], "accumulator groups")
        weight = self.cut_weight(accumulate.args[1], 1, counts.segments)
        scale, groups = call.args[2], int(shape_of(call.args[2], "scale")[1])
        scale = self.cut_weight(scale, 1, (groups,)) if groups > 1 else self.atom(scale)
        mine = self.builder.emit(
            readout(self.accumulated(accumulate, weight), self.atom(call.args[1]), scale)
        )
        total = self.builder.emit(ccl.allreduce(mine, "sum", False))
        return relax.op.add(total, self.atom(call.args[3])) if len(call.args) > 3 else total

    def accumulated(self, call: Any, weight: Any) -> Any:
        return self.builder.emit(relax.Call(call.op, [self.atom(call.args[0]), weight], call.attrs))


_RULES: dict[str, Any] = {
    "relax.take": _Sharding.take,
    "relax.reshape": _Sharding.reshape,
    "relax.split": _Sharding.split_op,
    "relax.multiply": _Sharding.multiply,
    "relax.sdc.hadamard": _Sharding.hadamard,
    "relax.sdc.spike_encode": _Sharding.encode,
    "relax.sdc.readout": _Sharding.linear,
}
