"""Spike graphs of Llama-type decoders from their shapes alone: no weights are needed to map a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdc.ir.coding import time_steps
from sdc.targets.neuro.mapping.graph import (
    Accumulate,
    Attention,
    Encode,
    Readout,
    SpikeGraph,
    Vector,
)
from sdc.targets.neuro.mapping.statistics import SpikeStatistics

__all__ = ["SHAPES", "LlamaShape", "hadamard_block", "llama_graph"]

NORM_OPS = 4.0
"""Additions and multiplications of one channel: residual, square, running sum, scaling."""
ENCODE_OPS = 4.0
"""Of one channel: magnitude, maximum, division by theta, rounding."""
GATE_OPS = 6.0
"""Of one channel: SiLU (four) and the product with the other half, with its load."""


@dataclass(frozen=True)
class LlamaShape:
    """Dimensions of a Llama-type decoder."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    head_dim: int = 0

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Weights of all linear layers and the head (the embedding is looked up, not multiplied)."""
        d = self.head_size
        attention = self.hidden * d * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.ffn) + self.vocab * self.hidden


SHAPES = {
    shape.name: shape
    for shape in (
        # config.json of HuggingFaceTB/SmolLM2-135M-Instruct
        LlamaShape("smollm2-135m", hidden=576, layers=30, heads=9, kv_heads=3, ffn=1536, vocab=49152),
        # config.json of TinyLlama/TinyLlama-1.1B
        LlamaShape("tinyllama-1.1b", hidden=2048, layers=22, heads=32, kv_heads=4, ffn=5632, vocab=32000),
        # Touvron et al., arXiv 2307.09288, and config.json of meta-llama/Llama-2-7b-hf
        LlamaShape("llama2-7b", hidden=4096, layers=32, heads=32, kv_heads=32, ffn=11008, vocab=32000),
    )
}


def llama_graph(
    shape: LlamaShape | str,
    statistics: SpikeStatistics | None = None,
    *,
    weight_bits: int = 8,
    context: int = 512,
    max_seq: int = 2048,
) -> SpikeGraph:
    """The spiking program of a decoder for one token.

    Args:
        shape: Dimensions, or a name in :data:`SHAPES`.
        context: Tokens in the cache for which traffic and time are estimated.
        max_seq: Tokens that the KV cache must hold.
    """
    if isinstance(shape, str):
        shape = SHAPES[shape]
    return _Builder(
        shape, statistics or SpikeStatistics(), weight_bits, min(context, max_seq), max_seq
    ).build()


def hadamard_block(width: int, largest: int = 64) -> int:
    """The largest power of two up to ``largest`` that divides ``width``."""
    return math.gcd(width, largest)


class _Builder:
    def __init__(
        self, shape: LlamaShape, statistics: SpikeStatistics, bits: int, context: int, max_seq: int
    ) -> None:
        self.shape, self.statistics, self.bits = shape, statistics, bits
        self.context, self.max_seq = context, max_seq
        self.graph = SpikeGraph(shape.name)

    def build(self) -> SpikeGraph:
        shape, graph = self.shape, self.graph
        x = graph.add(Vector("embed", -1, shape.hidden, external_bytes=4 * shape.hidden))
        delta = ""
        for i in range(shape.layers):
            x, delta = self.layer(i, x, delta)
        encode = self.encode("head", shape.layers - 1, shape.hidden, NORM_OPS, whole_row=True)
        self.feed_residual(encode, x, delta)
        logits = self.linear("head", shape.layers - 1, shape.vocab, encode)
        graph.add(Vector("sample", -1, 1, ops_per_channel=2.0))
        graph.connect(logits, "sample", "summary")
        return graph

    def layer(self, i: int, x: str, delta: str) -> tuple[str, str]:
        """One decoder layer; returns the operation that holds the residual stream and its latest summand."""
        shape, graph, name = self.shape, self.graph, f"layers.{i}"
        d, s = shape.head_size, self.statistics
        first = self.encode(f"{name}.attn.qkv", i, shape.hidden, NORM_OPS, whole_row=True)
        self.feed_residual(first, x, delta)
        q, kv = shape.heads * d, shape.kv_heads * d
        qkv = self.linear(f"{name}.attn.qkv", i, q + 2 * kv, first)
        attention = graph.add(
            Attention(
                name=f"{name}.attn",
                layer=i,
                heads=shape.heads,
                kv_heads=shape.kv_heads,
                head_dim=d,
                context=self.context,
                max_seq=self.max_seq,
                query_spikes=s.query_spikes(d),
                probability_spikes=s.probability_spikes(self.context),
                query_steps=time_steps(s.coding, s.query_levels),
                probability_steps=time_steps(s.coding, s.probability_levels),
            )
        )
        graph.connect(qkv, attention, parts=((0, q), (q, kv), (q + kv, kv)))
        o_encode = self.encode(f"{name}.attn.o", i, q, 0.0)
        graph.connect(attention, o_encode)
        o = self.linear(f"{name}.attn.o", i, shape.hidden, o_encode)
        second = self.encode(f"{name}.mlp.gate_up", i, shape.hidden, NORM_OPS, whole_row=True)
        self.feed_residual(second, first, o)
        gate_up = self.linear(f"{name}.mlp.gate_up", i, 2 * shape.ffn, second)
        down_encode = self.encode(f"{name}.mlp.down", i, shape.ffn, GATE_OPS)
        graph.connect(gate_up, down_encode, parts=((0, shape.ffn), (shape.ffn, shape.ffn)))
        return second, self.linear(f"{name}.mlp.down", i, shape.hidden, down_encode)

    def feed_residual(self, encode: str, x: str, delta: str) -> None:
        """The encoder keeps the residual stream: it gets the stream so far and the latest summand."""
        width = self.shape.hidden
        self.graph.connect(x, encode, parts=((0, width),))
        if delta:
            self.graph.connect(delta, encode)

    def encode(self, name: str, layer: int, width: int, extra: float, whole_row: bool = False) -> str:
        s = self.statistics
        block = hadamard_block(width)
        group = math.gcd(width, s.group) if s.group else width
        return self.graph.add(
            Encode(
                name=f"{name}.encode",
                layer=layer,
                width=width,
                levels=s.levels,
                coding=s.coding,
                group=group,
                spikes_per_neuron=s.spikes(name),
                ops_per_channel=ENCODE_OPS + math.log2(block) + extra,
                whole_row=whole_row or group == width,
                block=block,
            )
        )

    def linear(self, name: str, layer: int, rows: int, encode: str) -> str:
        source = self.graph.op(encode)
        assert isinstance(source, Encode)
        self.graph.add(Accumulate(name, layer, rows, source.width, self.bits, source.group))
        self.graph.connect(encode, name, "spikes")
        readout = self.graph.add(Readout(f"{name}.readout", layer, rows, source.width // source.group))
        self.graph.connect(name, readout, "sums")
        return readout
