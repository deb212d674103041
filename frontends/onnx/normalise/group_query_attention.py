"""GroupQueryAttention of ``com.microsoft``: the model builder of ONNX Runtime GenAI writes it.

It becomes Split (of packed queries, keys and values), RMSNormalization of each head (where it is fused in),
RotaryEmbedding and Attention. What a query sees is built from ``seqlens_k`` as a mask, so that the lifting
proves that it is causal, or a sliding window, rather than takes it on trust.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.tape import Tape

from sdc.frontends.onnx.normalise.rewriting import Outputs, allow, constant, given, refuse, replace_nodes

__all__ = ["split_group_query_attention"]

HANDLED = (
    *("num_heads", "kv_num_heads", "scale", "softcap", "do_rotary", "rotary_interleaved", "causal"),
    *("local_window_size", "qk_norm_epsilon", "q_norm_epsilon", "k_norm_epsilon"),
    "sliding_window_cache",  # how its caches are laid out; ours are not
)
OFF = ("smooth_softmax", "qk_output", "kv_cache_bit_width")  # at most 0
NONE = ("k_quant_type", "v_quant_type")  # "NONE"
PAST, LENGTHS, TOTAL, COS, SIN, POSITIONS = 3, 5, 6, 7, 8, 9
NORMS = {"q": 14, "k": 15}


def split_group_query_attention(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    return replace_nodes(model, {"GroupQueryAttention": _Rule().lower})


@dataclass
class _Rule:
    """Layers share their masks and positions, as they share ``seqlens_k``."""

    masks: dict[tuple[int, int, int], ir.Value] = field(default_factory=dict)
    positions: dict[int, ir.Value] = field(default_factory=dict)

    def lower(self, tape: Tape, node: ir.Node) -> Outputs:
        _check(node)
        heads = {"q": _heads(node, "num_heads"), "k": _heads(node, "kv_num_heads")}
        q, k, v = _parts(tape, node, heads)
        q = _normalised(tape, node, q, heads["q"], "q")
        k = _normalised(tape, node, k, heads["k"], "k")
        if node.attributes.get_int("do_rotary", 0):
            q, k = (self._rotated(tape, node, x, heads[n]) for x, n in ((q, "q"), (k, "k")))
        inputs = [q, k, v, self._mask(tape, node), given(node, PAST), given(node, PAST + 1)]
        attributes = {
            "q_num_heads": heads["q"],
            "kv_num_heads": heads["k"],
            "softcap": node.attributes.get_float("softcap", 0.0),
            "is_causal": 0,
        }
        scale = node.attributes.get_float("scale", 0.0)
        if scale:
            attributes["scale"] = scale
        return tape.op_multi_out("Attention", inputs, attributes, num_outputs=3, name=f"{node.name}_standard")

    def _rotated(self, tape: Tape, node: ir.Node, x: ir.Value, heads: int) -> ir.Value:
        cos, sin = given(node, COS), given(node, SIN)
        if cos is None or sin is None:
            raise refuse(node, "rotary embedding without its tables")
        ids = given(node, POSITIONS)
        if ids is None:
            ids = self._positions(tape, node)
        interleaved = node.attributes.get_int("rotary_interleaved", 0)
        attributes = {"num_heads": heads, "interleaved": interleaved}
        return tape.op("RotaryEmbedding", [x, cos, sin, ids], attributes)

    def _positions(self, tape: Tape, node: ir.Node) -> ir.Value:
        """Positions of this call's tokens, [batch, seq]: the last ones of ``seqlens_k + 1`` tokens."""
        lengths = node.inputs[LENGTHS]
        if id(lengths) not in self.positions:
            seq = tape.op("Shape", [node.inputs[0]], {"start": 1, "end": 2})
            zero, one = constant(tape, 0), constant(tape, 1)
            steps = tape.op("Range", [zero, tape.op("Squeeze", [seq]), one])
            total = tape.op("Add", [_column(tape, lengths), one])
            first = tape.op("Sub", [total, seq])
            self.positions[id(lengths)] = tape.op("Add", [first, steps])
        return self.positions[id(lengths)]

    def _mask(self, tape: Tape, node: ir.Node) -> ir.Value:
        """bool [batch, 1, seq, total]: key j is seen from position i where i - window < j <= i."""
        lengths, total = node.inputs[LENGTHS], node.inputs[TOTAL]
        window = node.attributes.get_int("local_window_size", -1)
        causal = node.attributes.get_int("causal", 1)
        key = (id(lengths), window, causal)
        if key not in self.masks:
            one = constant(tape, 1)
            count = tape.op("Squeeze", [tape.op("Cast", [total], {"to": ir.DataType.INT64})])
            keys = tape.op("Range", [constant(tape, 0), count, one])
            # [batch, 1, seq] or, where every query sees all tokens, [batch, 1, 1]
            last = _column(tape, lengths)
            if causal:
                last = self._positions(tape, node)
            last = tape.op("Unsqueeze", [last, constant(tape, [1, 3])])
            seen = tape.op("LessOrEqual", [keys, last])
            if window > 0:
                first = tape.op("Sub", [last, constant(tape, window)])
                seen = tape.op("And", [seen, tape.op("Greater", [keys, first])])
            self.masks[key] = seen
        return self.masks[key]


def _check(node: ir.Node) -> None:
    """Refuses what has no standard form: quantised caches, attention sinks, scores as an output."""
    allow(node, (*HANDLED, *OFF, *NONE), inputs=[*range(POSITIONS + 1), *NORMS.values()])
    wanted = [name for name in OFF if node.attributes.get_int(name, 0) > 0]
    wanted += [name for name in NONE if node.attributes.get_string(name, "NONE") != "NONE"]
    if wanted:
        raise refuse(node, f"it asks for {', '.join(wanted)}")
    if given(node, LENGTHS) is None or given(node, TOTAL) is None:
        raise refuse(node, "without seqlens_k and total_sequence_length")


def _heads(node: ir.Node, name: str) -> int:
    heads = node.attributes.get_int(name, 0)
    if heads <= 0:
        raise refuse(node, f"{name} is not said")
    return heads


def _parts(tape: Tape, node: ir.Node, heads: dict[str, int]) -> Outputs:
    """Queries, keys and values, each [batch, seq, heads * channels]."""
    query, key, value = node.inputs[:3]
    if key is not None and value is not None:
        return [query, key, value]
    width = query.shape[-1] if query is not None and query.shape is not None else None
    count = heads["q"] + 2 * heads["k"]
    if not isinstance(width, int) or width % count:
        raise refuse(node, f"packed queries, keys and values of width {width} for {count} heads")
    sizes = [heads[n] * (width // count) for n in ("q", "k", "k")]
    return tape.op_multi_out("Split", [query, constant(tape, sizes)], {"axis": -1}, num_outputs=3)


def _normalised(tape: Tape, node: ir.Node, x: ir.Value | None, heads: int, which: str) -> ir.Value | None:
    """Each head's channels normalised, where the node has a gain for that (Qwen3)."""
    gain = given(node, NORMS[which])
    if gain is None:
        return x
    common = node.attributes.get_float("qk_norm_epsilon", 1e-6)
    epsilon = node.attributes.get_float(f"{which}_norm_epsilon", common)
    rows = tape.op("Reshape", [x, constant(tape, [0, 0, heads, -1])])
    rows = tape.op("RMSNormalization", [rows, gain], {"epsilon": epsilon})
    return tape.op("Reshape", [rows, constant(tape, [0, 0, -1])])


def _column(tape: Tape, lengths: ir.Value | None) -> ir.Value:
    """``seqlens_k``, int32 [batch] or [batch, 1], as int64 [batch, 1]."""
    wide = tape.op("Cast", [lengths], {"to": ir.DataType.INT64})
    return tape.op("Reshape", [wide, constant(tape, [-1, 1])])
