"""What a Llama-architecture GGUF file must hold: its hyperparameters, and its tensors with their shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sdc.errors import InvalidModelError, ModelError

__all__ = ["LlamaFacts", "read_facts", "tensors"]

MAX_CONTEXT = 1 << 20  # rotary tables of more positions than any published model has are a damaged file

Field = Callable[..., Any]


@dataclass(frozen=True)
class LlamaFacts:
    """Hyperparameters, by the keys of the GGUF specification's ``llama`` section.

    ``rope_factor`` divides every rotary frequency (linear scaling; 1 = none).
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    rms_epsilon: float
    rope_base: float
    rope_dim: int
    rope_factor: float = 1.0


def read_facts(path: object, field: Field, vocab: int) -> LlamaFacts:
    """The hyperparameters, checked.

    Args:
        path: The file, for messages.
        field: ``field(key, default)`` reads a metadata value.
        vocab: Rows of the embedding.

    Raises:
        InvalidModelError: A value is missing, of the wrong kind, or contradicts another.
        ModelError: The file asks for something that is not supported.
    """

    def number(key: str, default: float | None = None) -> Any:
        value = field(f"llama.{key}", default)
        if value is None:
            raise InvalidModelError(f'{path}: metadata "llama.{key}" is missing')
        if isinstance(value, list):
            raise ModelError(f'{path}: "llama.{key}" differs by layer, which is not supported')
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidModelError(f'{path}: metadata "llama.{key}" is {value!r}, not a number')
        return value

    if number("expert_count", 0):
        raise ModelError(f"{path}: mixtures of experts are not supported in GGUF files; use an ONNX export")
    heads, hidden = int(number("attention.head_count")), int(number("embedding_length"))
    head_dim = int(number("attention.key_length", hidden // max(heads, 1)))
    facts = LlamaFacts(
        name=str(field("general.name", "llama")),
        layers=int(number("block_count")),
        hidden=hidden,
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        head_dim=head_dim,
        ffn=int(number("feed_forward_length")),
        vocab=vocab,
        context=int(number("context_length")),
        rms_epsilon=float(number("attention.layer_norm_rms_epsilon")),
        rope_base=float(number("rope.freq_base", 10000.0)),
        rope_dim=int(number("rope.dimension_count", head_dim)),
        rope_factor=_rope_factor(path, field, number),
    )
    _check(path, facts, int(number("attention.value_length", head_dim)))
    return facts


def _rope_factor(path: object, field: Field, number: Callable[..., Any]) -> float:
    kind = field("llama.rope.scaling.type", "none")
    if kind in ("none", ""):
        return float(number("rope.scale_linear", 1.0))  # the key of files from before scaling.type
    if kind != "linear":
        raise ModelError(
            f'{path}: rotary scaling of type "{kind}" is not supported (supported: none, linear)'
        )
    return float(number("rope.scaling.factor"))


def _check(path: object, f: LlamaFacts, value_length: int) -> None:
    rules = {
        "sizes are positive": min(f.layers, f.hidden, f.heads, f.kv_heads, f.head_dim, f.ffn, f.vocab) > 0,
        "head_count is a multiple of head_count_kv": f.kv_heads > 0 and f.heads % f.kv_heads == 0,
        "rope.dimension_count is even and at most a head's width": f.rope_dim % 2 == 0
        and 0 < f.rope_dim <= f.head_dim,
        f"context_length is in 1..{MAX_CONTEXT}": 0 < f.context <= MAX_CONTEXT,
        "the epsilon, rotary base and rotary factor are positive": f.rms_epsilon > 0
        and f.rope_base > 0
        and f.rope_factor > 0,
    }
    for rule, holds in rules.items():
        if not holds:
            raise InvalidModelError(f'{path}: the metadata of the file breaks the rule "{rule}" ({f})')
    if value_length != f.head_dim:
        raise ModelError(f"{path}: values of another width than keys are not supported")


def tensors(f: LlamaFacts) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Every tensor such a file may hold: (name, shape in row-major order, whether it must be there)."""
    q, kv = f.heads * f.head_dim, f.kv_heads * f.head_dim
    yield "token_embd.weight", (f.vocab, f.hidden), True
    yield "output_norm.weight", (f.hidden,), True
    yield "output.weight", (f.vocab, f.hidden), False  # left out where the head is tied to the embedding
    yield "rope_freqs.weight", (f.rope_dim // 2,), False  # Llama 3.1: what divides each rotary frequency
    for i in range(f.layers):
        linears = {
            "attn_q": (q, f.hidden),
            "attn_k": (kv, f.hidden),
            "attn_v": (kv, f.hidden),
            "attn_output": (f.hidden, q),
            "ffn_gate": (f.ffn, f.hidden),
            "ffn_up": (f.ffn, f.hidden),
            "ffn_down": (f.hidden, f.ffn),
        }
        yield f"blk.{i}.attn_norm.weight", (f.hidden,), True
        yield f"blk.{i}.ffn_norm.weight", (f.hidden,), True
        for name, shape in linears.items():
            yield f"blk.{i}.{name}.weight", shape, True
            yield f"blk.{i}.{name}.bias", shape[:1], False
