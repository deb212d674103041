"""What every pass takes and returns: a Relax module, its lazy weights, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import tvm

from sdc.ir.params import Param

__all__ = ["Coding", "Encoding", "Model", "ModelInfo"]

Coding = Literal["ternary", "bitwise", "binary"]


@dataclass(frozen=True)
class Encoding:
    """How one operation's activations become spikes, and its weights integers.

    Attributes:
        levels: Largest spike count D.
        coding: How a count becomes a train.
        group: Channels that share a threshold; 0 means all of a token's.
        clip_ratio: c in theta = c * max|x| / D.
        dead_zone: tau; |x| < tau * theta gives 0.
        floor: Least threshold: theta = max(floor, c * max|x| / D). Quiet tokens then spike less than loud
            ones; with c = 0 the threshold is static.
        weight_bits: Width of an integer weight.
        weight_group: Input channels that share a weight scale; 0 means a whole row.
    """

    levels: int = 15
    coding: Coding = "ternary"
    group: int = 64
    clip_ratio: float = 1.0
    dead_zone: float = 0.0
    floor: float = 0.0
    weight_bits: int = 8
    weight_group: int = 0


@dataclass(frozen=True)
class ModelInfo:
    """Facts about the architecture; 0 or "" where unknown or not applicable.

    Attributes:
        kind: ``decoder`` (has ``forward`` with a KV cache) or ``stateless`` (has ``main``).
        max_seq: Tokens that the KV cache holds, fixed at compile time.
    """

    kind: Literal["decoder", "stateless"] = "stateless"
    name: str = ""
    exporter: str = ""
    opset: int = 0
    source: str = ""
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocab: int = 0
    max_seq: int = 0
    rope: str = ""
    parameters: int = 0


@dataclass(frozen=True)
class Model:
    """A module with its weights.

    The first ``num_input`` parameters (a function attribute) of ``forward`` / ``main`` are run-time inputs;
    the others are weights, whose name hints are the keys of ``params``.

    Attributes:
        module: Relax functions.
        params: Lazy weights by name hint.
        info: Architecture facts.
        encodings: By operation name; filled by calibration, consumed by the spike rewrite.
        zeros: Share of the counts that are 0, by operation name, on the calibration inputs; only where known.
        allocation: One row an operation, where encodings were chosen under a budget.
        notes: Remarks for the report: what was skipped, and why.
    """

    module: tvm.IRModule
    params: Mapping[str, Param]
    info: ModelInfo = field(default_factory=ModelInfo)
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    zeros: Mapping[str, float] = field(default_factory=dict)
    allocation: tuple[Mapping[str, float | str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """Name of the entry function: ``forward`` or ``main``."""
        return "forward" if self.info.kind == "decoder" else "main"

    def with_note(self, note: str) -> Model:
        """The model with one more remark (the same remark is kept once)."""
        return self if note in self.notes else replace(self, notes=(*self.notes, note))
