"""How a compiled program is called: plain data, read without the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["AttentionForm", "Signature", "State"]


@dataclass(frozen=True)
class State:
    """A run-time input that lives between calls; ``in_place`` where the kernels write into it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    in_place: bool


@dataclass(frozen=True)
class AttentionForm:
    """What an attention's probabilities depend on besides its tensors; see ``sdc.spike_attention``."""

    scale: float
    window: int
    softcap: float
    levels: int
    value_width: int


@dataclass(frozen=True)
class Signature:
    """How a program's functions are called: plain data, kept in the manifest.

    Attributes:
        inputs: Name, dtype and shape (-1: any length) of run-time inputs that are no states.
        weights: Names in the weights file, in the order of the parameters.
        chunk: Most tokens per call.
        launches: Kernels per function.
        attentions: What each attention's probabilities depend on, in order.
        regions: Functions that are no functions of the virtual machine: bytes that each works in, in all and
            for each thread. The target that made them runs them.
    """

    kind: Literal["decoder", "stateless"]
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[str, ...]
    states: tuple[State, ...]
    weights: tuple[str, ...]
    max_seq: int
    vocab: int
    chunk: int
    launches: Mapping[str, int]
    attentions: tuple[AttentionForm, ...] = ()
    regions: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Signature:
        """The inverse of :meth:`to_json`."""
        states = tuple(State(s["name"], tuple(s["shape"]), s["dtype"], s["in_place"]) for s in data["states"])
        inputs = tuple((name, dtype, tuple(shape)) for name, dtype, shape in data["inputs"])
        rest = {"inputs": inputs, "states": states}
        rest |= {k: tuple(data[k]) for k in ("outputs", "weights")}
        rest["attentions"] = tuple(AttentionForm(**form) for form in data.get("attentions", ()))
        return Signature(**{**data, **rest})
