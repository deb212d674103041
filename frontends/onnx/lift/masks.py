"""What a query sees: the mask, evaluated for several lengths, is proved to be causal, windowed or open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx.lift.lifter import Lifter
from sdc.frontends.onnx.lift.values import Constant, Grown, Structural
from sdc.ir.ops.attention import visible

__all__ = ["BiasError", "NotCausalError", "Visibility", "visibility"]

HIDDEN = -1e4  # exporters write -inf, the lowest float16 or float32, or -10000 (BERT) for "not visible"
LENGTHS = (6, 1, 33)
STATELESS_LENGTH = 300


class NotCausalError(Exception):
    """An attention sees later tokens: the graph is no decoder."""


class BiasError(UnsupportedOpError):
    """What is added to the scores is more than "visible" and "not visible", or depends on activations."""


@dataclass(frozen=True)
class Visibility:
    """What ``sdc.attention`` needs to know; ``Visibility(False)`` sees every key.

    Attributes:
        causal: Later tokens are hidden.
        window: Keys that a query sees, itself included; 0 means all earlier ones.
    """

    causal: bool
    window: int = 0


def visibility(lifter: Lifter, node: ir.Node, mask: ir.Value | None) -> Visibility:
    """The one :class:`Visibility` that agrees with an Attention's mask at every length that is tried.

    The longest length is the decoder's ``max_seq``, so that a sliding window cannot hide behind short texts.

    Raises:
        UnsupportedOpError: None agrees.
        BiasError: The mask adds a bias to scores, or it depends on activations.
        NotCausalError: A decoder's mask adds a bias, and hides no later token.
    """
    is_causal = bool(node.attributes.get_int("is_causal", 0))
    grown = isinstance(lifter.values[id(node.inputs[1])], Grown)
    if mask is None and not grown:
        return Visibility(is_causal)  # aligned with the first key, or behind the node's own past input
    if mask is not None and not isinstance(lifter.values[id(mask)], Structural | Constant):
        raise BiasError([_complaint(node, "depends on activations")])
    key = (id(mask), is_causal, grown)
    known: dict[tuple[int, bool, bool], Visibility] = lifter.memo.setdefault("visibility", {})
    if key not in known:
        known[key] = _agree(lifter, node, mask, is_causal, grown)
    return known[key]


def _agree(lifter: Lifter, node: ir.Node, mask: ir.Value | None, is_causal: bool, grown: bool) -> Visibility:
    own_past = len(node.inputs) > 4 and node.inputs[4] is not None
    found: dict[tuple[int, int], NDArray] = {}
    for seq, past in _trials(lifter, grown or own_past):
        try:
            seen = (
                np.ones((1, seq, past + seq), bool) if mask is None else _seen(lifter, node, mask, seq, past)
            )
        except ValueError:
            if (
                seq > 1 and past
            ):  # a graph of prompts and of single tokens alone (GenAI with MultiHeadAttention)
                continue
            raise
        if is_causal:
            seen = seen & visible(seq, past + seq, past if own_past else 0, True, 0)
        found[seq, past] = seen
    longest = list(found.values())[-1][0][-1]
    for answer in (Visibility(False), Visibility(True), Visibility(True, int(longest.sum()))):
        if all(
            (s == visible(n, p + n, p, answer.causal, answer.window)).all() for (n, p), s in found.items()
        ):
            return answer
    raise _refuse(node, "is neither causal, nor a sliding window, nor open")


def _trials(lifter: Lifter, has_past: bool) -> list[tuple[int, int]]:
    """Pairs (tokens of the call, tokens before it); the last reaches farthest."""
    if lifter.decoding is None:
        return [(n, 0) for n in (*LENGTHS, STATELESS_LENGTH)]
    longest = max(lifter.decoding.max_seq, LENGTHS[-1])
    if not has_past:
        return [(n, 0) for n in (*LENGTHS, longest)]
    return [(n, past) for n in LENGTHS for past in (0, 3)] + [(1, longest - 1)]


def _seen(lifter: Lifter, node: ir.Node, mask: ir.Value, seq: int, past: int) -> NDArray:
    """The mask as bool [rows, seq, past + seq]; rows are batch times heads.

    Raises:
        BiasError, NotCausalError: It is not one of zeros and "not visible".
        UnsupportedOpError: It has another width.
    """
    number = lifter.interpreter({"batch": 1, "seq": seq, "past": past}).number(mask)
    if number.dtype != bool:
        if not ((number == 0) | (number <= HIDDEN)).all():
            if lifter.decoding is not None and (number > HIDDEN).all() and seq > 1:
                raise NotCausalError
            raise BiasError([_complaint(node, "adds a bias to the scores")])
        number = number == 0
    if number.ndim < 2 or number.shape[-1] not in (1, past + seq) or number.shape[-2] not in (1, seq):
        raise _refuse(node, f"has shape {list(number.shape)} for {seq} queries and {past + seq} keys")
    full = np.broadcast_to(number, (*number.shape[:-2], seq, past + seq))
    return full.reshape(-1, seq, past + seq)


def _refuse(node: ir.Node, why: str) -> UnsupportedOpError:
    return UnsupportedOpError([_complaint(node, why)])


def _complaint(node: ir.Node, why: str) -> str:
    return f'node "{node.name}" (op Attention): its mask {why}'
