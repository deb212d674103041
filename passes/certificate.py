"""What a spiking program still computes: additions, multiplications, non-linear functions, by operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tvm import relax

from sdc.ir.evaluate.symbolic import evaluate_prim
from sdc.ir.model import Model
from sdc.ir.ops import attributes, is_op, shape_of
from sdc.ir.tables import byte_rows
from sdc.passes.graph import Graph, op_name

__all__ = ["Certificate", "OpCost", "certify"]

DENSE = frozenset({"sdc.linear", "sdc.attention", "matmul", "nn.conv1d", "nn.conv2d", "einsum", "linear"})
FREE = frozenset(
    {"reshape", "permute_dims", "split", "concat", "take", "strided_slice", "expand_dims", "squeeze"}
    | {
        "broadcast_to",
        "sdc.kv_append",
        "sdc.spike_train",
        "astype",
        "gather_nd",
        "gather_elements",
        "arange",
        "full",
    }
)


@dataclass(frozen=True)
class OpCost:
    """One operation, per token at the certificate's context length.

    Attributes:
        name: The operation's name; its kind where it has none.
        kind: The Relax operation.
        additions: Integer or float additions; for accumulators, one per synapse (all spike once).
        multiplications: Multiplications and divisions, float.
        nonlinear: Exponentials, square roots and the like.
        synapses: Weights (or cached elements) that a spike can meet.
        dense: Whether it is a dense product of floats.
    """

    name: str
    kind: str
    additions: int
    multiplications: int
    nonlinear: int
    synapses: int
    dense: bool


@dataclass(frozen=True)
class Certificate:
    """All operations of the entry function.

    Attributes:
        context: Tokens that an attention looks back on.
        ops: In order.
    """

    context: int
    ops: tuple[OpCost, ...]

    @property
    def dense_float_products(self) -> int:
        """Dense products of floats that are left."""
        return sum(op.dense for op in self.ops)

    def total(self, what: str) -> int:
        """The sum of one count over all operations."""
        return sum(int(getattr(op, what)) for op in self.ops)

    def as_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        totals = {w: self.total(w) for w in ("additions", "multiplications", "nonlinear", "synapses")}
        return {
            "context": self.context,
            "dense_float_products": self.dense_float_products,
            "totals": totals,
            "ops": [asdict(op) for op in self.ops],
        }


def certify(model: Model, context: int = 512) -> Certificate:
    """Counts what is left, for one token (symbolic lengths count 1) with ``context`` tokens before it."""
    graph = Graph(model)
    ops = []
    for binding in graph.bindings:
        value = binding.value
        if isinstance(value, relax.Call) and hasattr(value.op, "name"):
            ops.append(_scaled_rows(graph, value) or _cost(value, context))
    return Certificate(context, tuple(op for op in ops if op is not None))


def _scaled_rows(graph: Graph, call: relax.Call) -> OpCost | None:
    """The scaling of rows that are stored as bytes; None for anything else."""
    table = graph.weight(call.args[0]) if is_op(call, "take") else None
    if table is None or byte_rows(table) is None:
        return None
    return OpCost(table.name, "take", 0, _size(call), 0, 0, False)


def _cost(call: relax.Call, context: int) -> OpCost | None:
    kind = str(call.op.name).removeprefix("relax.")
    if kind in FREE:
        return None
    name = op_name(call) or kind
    if kind in DENSE:
        return OpCost(name, kind, 0, 0, 0, 0, True)
    rule = _RULES.get(kind, _elementwise)
    additions, multiplications, nonlinear, synapses = rule(call, context)
    return OpCost(name, kind, additions, multiplications, nonlinear, synapses, False)


def _size(expr: relax.Expr) -> int:
    """Elements of a tensor, symbolic dimensions counting 1."""
    total = 1
    for d in shape_of(expr, "certificate"):
        total *= d if isinstance(d, int) else evaluate_prim(d, _Ones())
    return total


class _Ones(dict[object, int]):
    """Every symbolic dimension is 1."""

    def __contains__(self, key: object) -> bool:
        return type(key).__name__ == "Var"

    def __getitem__(self, key: object) -> int:
        return 1


Counts = tuple[int, int, int, int]


def _hadamard(call: relax.Call, _context: int) -> Counts:
    return _size(call) * (int(attributes(call)["block"]).bit_length() - 1), 0, 0, 0


def _encode(call: relax.Call, _context: int) -> Counts:
    size, group = _size(call.args[0]), int(attributes(call)["group"])
    return 0, size + size // group, 0, 0


def _accumulate(call: relax.Call, _context: int) -> Counts:
    synapses = _size(call.args[1])
    return synapses, 0, 0, synapses


def _readout(call: relax.Call, _context: int) -> Counts:
    size = _size(call.args[0])
    return size, 2 * size, 0, 0


def _attention(call: relax.Call, context: int) -> Counts:
    _, _, heads, width = shape_of(call.args[0], "certificate")
    out = shape_of(call.args[4], "certificate")[3]
    keys = context if attributes(call)["causal"] else _size(call.args[3])
    synapses = heads * keys * (width + out)
    return synapses + heads * keys, heads * (4 * keys + out), heads * keys, synapses


def _product(call: relax.Call, _context: int) -> Counts:
    width = shape_of(call.args[0], "certificate")[-1]
    size = _size(call)
    return size * int(width), 2 * size, 0, size * int(width)


def _rotary(call: relax.Call, _context: int) -> Counts:
    return _size(call), 2 * _size(call), 0, 0


def _norm(call: relax.Call, _context: int) -> Counts:
    size = _size(call)
    return 2 * size, 3 * size, 1, 0


def _add(call: relax.Call, _context: int) -> Counts:
    return _size(call), 0, 0, 0


def _multiply(call: relax.Call, _context: int) -> Counts:
    return 0, _size(call), 0, 0


def _select(call: relax.Call, _context: int) -> Counts:
    return _size(call.args[0]), 0, 0, 0  # comparisons


def _elementwise(call: relax.Call, _context: int) -> Counts:
    size = _size(call)
    return size, size, size, 0


_RULES: dict[str, Callable[[relax.Call, int], Counts]] = {
    "sdc.hadamard": _hadamard,
    "sdc.spike_encode": _encode,
    "sdc.spike_accumulate": _accumulate,
    "sdc.readout": _readout,
    "sdc.spike_attention": _attention,
    "sdc.spike_matmul": _product,
    "sdc.rotary": _rotary,
    "nn.rms_norm": _norm,
    "nn.layer_norm": _norm,
    "topk": _select,
    "add": _add,
    "subtract": _add,
    "multiply": _multiply,
    "divide": _multiply,
}
