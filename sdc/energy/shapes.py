"""The work of a Llama-type decoder from its shapes alone."""

from __future__ import annotations

from dataclasses import replace

from sdc.energy.work import Other, Product, Work
from sdc.errors import ConfigError
from sdc.targets.neuro.mapping.llama import SHAPES, LlamaShape, hadamard_block

__all__ = ["ARCHITECTURES", "find_shape", "llama_work"]

ARCHITECTURES = tuple(SHAPES)


def find_shape(name: str) -> LlamaShape:
    """The shape of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in SHAPES:
        raise ConfigError(f'there is no architecture "{name}"; known are: {", ".join(SHAPES)}')
    return SHAPES[name]


def llama_work(shape: LlamaShape, keys: float, *, head: bool = True, group: int = 64) -> Work:
    """One token of a decoder whose queries meet ``keys`` keys.

    Args:
        keys: (n + 1) / 2 on average over a prompt of n tokens; n where masked keys are counted as well.
        head: Count the product with the vocabulary.
        group: Channels that share a threshold and a weight scale.
    """
    products: list[Product] = []
    for layer in range(shape.layers):
        products += _layer(shape, f"layers.{layer}", keys, group)
    if head:
        products.append(_linear("head", shape.hidden, shape.vocab, group))
    return Work(shape.name, keys, tuple(products), _others(shape, keys, group, head))


def _layer(shape: LlamaShape, name: str, keys: float, group: int) -> list[Product]:
    size = shape.head_size
    queries, cached = shape.heads * size, shape.kv_heads * size
    probabilities = shape.heads * keys
    score = Product(f"{name}.attn:q", queries, queries * keys, probabilities)
    mix = Product(f"{name}.attn:p", probabilities, queries * keys, queries, probabilities=True)
    score, mix = (replace(p, cached=cached * keys, appended=cached) for p in (score, mix))
    return [
        _linear(f"{name}.attn.qkv", shape.hidden, queries + 2 * cached, group),
        score,
        mix,
        _linear(f"{name}.attn.o", queries, shape.hidden, group),
        _linear(f"{name}.mlp.gate_up", shape.hidden, 2 * shape.ffn, group),
        _linear(f"{name}.mlp.down", shape.ffn, shape.hidden, group),
    ]


def _linear(name: str, inputs: int, outputs: int, group: int) -> Product:
    weights = inputs * outputs
    return Product(name, inputs, weights, outputs, weights=weights, scales=weights / group)


def _others(shape: LlamaShape, keys: float, group: int, head: bool) -> tuple[Other, ...]:
    """Counted as by the certificate of a compiled program (sdc.passes.certificate)."""
    layers, hidden, size = shape.layers, shape.hidden, shape.head_size
    queries, cached = shape.heads * size, shape.kv_heads * size
    per_layer = [
        (hidden, queries + 2 * cached),
        (queries, hidden),
        (hidden, 2 * shape.ffn),
        (shape.ffn, hidden),
    ]
    linears = per_layer * layers + ([(hidden, shape.vocab)] if head else [])
    encoded = layers * (hidden + queries + hidden + shape.ffn + queries + 2 * cached) + hidden * head
    mixed = sum(i * (hadamard_block(i).bit_length() - 1) for i, _ in linears)
    sums = sum(i * o / group for i, o in linears)
    norms = (2 * layers + 1) * hidden
    rotated = layers * (queries + cached)
    scores = layers * shape.heads * keys
    return (
        Other("hadamard", mixed, 0, 0, spiking_only=True),
        Other("spike_encode", 0, encoded * (1 + 1 / group), 0, spiking_only=True),
        Other("readout", sums, 2 * sums, 0, spiking_only=True),
        Other("norm", 2 * norms, 3 * norms, 2 * layers + 1),
        Other("rotary", rotated, 2 * rotated, 0),
        Other("softmax", scores, 4 * scores, scores),
        Other("silu_and_gate", 0, 2 * layers * shape.ffn, layers * shape.ffn),
        Other("residual", 2 * layers * hidden, 0, 0),
    )
