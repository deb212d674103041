"""A tiny random decoder in the form that the spike rewrite leaves: no product of floats, integer caches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from sdc.ir.model import Model, ModelInfo
from sdc.ir.ops import (
    hadamard,
    kv_append,
    readout,
    rotary,
    spike_accumulate,
    spike_attention,
    spike_encode,
)
from sdc.ir.params import Param, array_param

__all__ = ["empty_caches", "spiking_llama"]

KV_LEVELS = 127


def spiking_llama(
    *,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    ffn: int = 48,
    vocab: int = 40,
    max_seq: int = 12,
    levels: int = 7,
    coding: Literal["ternary", "bitwise", "binary"] = "ternary",
    group: int = 16,
    weight_bits: int = 8,
    softcap: float = 0.0,
    seed: int = 0,
) -> Model:
    """Merged q/k/v and gate/up linears, block Hadamard before each encoder, random weights.

    Attention: queries 15 levels, keys and values 127, probabilities 31 (unsigned).
    """
    info = ModelInfo("decoder", layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, vocab=vocab)
    info = ModelInfo(**{**vars(info), "head_dim": head_dim, "max_seq": max_seq})
    return _Builder(info, ffn, levels, coding, group, weight_bits, softcap, seed).build()


def empty_caches(model: Model) -> tuple[NDArray, ...]:
    """Zeros for every cache input, batch 1."""
    function = model.module["forward"]
    types = [p.ty for p in list(function.params)[2 : int(function.attrs["num_input"])]]
    return tuple(np.zeros((1, *[int(d) for d in t.shape.values[1:]]), str(t.dtype)) for t in types)


@dataclass
class _Builder:
    info: ModelInfo
    ffn: int
    levels: int
    coding: Literal["ternary", "bitwise", "binary"]
    group: int
    bits: int
    softcap: float
    seed: int
    params: dict[str, Param] = field(default_factory=dict)
    vars: dict[str, relax.Var] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.bb = relax.BlockBuilder()
        self.batch, self.seq = tirx.Var("batch", "int64"), tirx.Var("seq", "int64")

    def build(self) -> Model:
        info, emit = self.info, self.bb.emit
        tokens = relax.Var("tokens", relax.TensorType([self.batch, self.seq], "int64"))
        self.position = relax.Var("position", relax.TensorType([], "int64"))
        self.caches = [
            relax.Var(f"{name}_{i}", self.cache_type(name)) for i in range(info.layers) for name in CACHES
        ]
        self.declare()
        inputs = [tokens, self.position, *self.caches]
        with self.bb.function("forward", [*inputs, *self.vars.values()], attrs={"num_input": len(inputs)}):
            with self.bb.dataflow():
                rows = emit(relax.op.take(self.vars["embed"], emit(relax.op.reshape(tokens, [-1])), axis=0))
                x = emit(relax.op.reshape(rows, [self.batch, self.seq, info.hidden]))
                written: list[relax.Expr] = []
                for i in range(info.layers):
                    x = self.layer(i, x, written)
                logits = self.linear(self.norm(x), "head", info.vocab)
                out = self.bb.emit_output(relax.Tuple([logits, *written]))
            self.bb.emit_func_output(out)
        return Model(self.bb.get(), self.params, info)

    def cache_type(self, name: str) -> relax.TensorType:
        theta = name.endswith("theta")
        width = 1 if theta else self.info.head_dim
        shape = [self.batch, self.info.kv_heads, self.info.max_seq, width]
        return relax.TensorType(shape, "float32" if theta else "int8")

    def layer(self, i: int, x: relax.Expr, written: list[relax.Expr]) -> relax.Expr:
        info, emit, name = self.info, self.bb.emit, f"layers.{i}"
        q_width, kv_width = info.heads * info.head_dim, info.kv_heads * info.head_dim
        qkv = self.linear(self.norm(x), f"{name}.attn.qkv", q_width + 2 * kv_width)
        parts = emit(relax.op.split(qkv, [q_width, q_width + kv_width], axis=-1))
        q, k, v = (
            emit(
                relax.op.reshape(emit(relax.TupleGetItem(parts, j)), [self.batch, self.seq, h, info.head_dim])
            )
            for j, h in enumerate((info.heads, info.kv_heads, info.kv_heads))
        )
        queries = self.encode(self.project(self.rotate(q), "head"), 15, info.head_dim, f"{name}.attn.q")
        new = [
            *self.encode(self.project(self.rotate(k), "head"), KV_LEVELS, info.head_dim, f"{name}.attn.k"),
            *self.encode(v, KV_LEVELS, info.head_dim, f"{name}.attn.v"),
        ]
        caches = [
            emit(kv_append(cache, row, self.position))
            for cache, row in zip(self.caches[4 * i : 4 * i + 4], new, strict=True)
        ]
        written += caches
        a = emit(
            spike_attention(
                queries,
                (caches[0], caches[1]),
                (caches[2], caches[3]),
                self.position,
                scale=info.head_dim**-0.5 / info.head_dim,
                causal=True,
                levels=31,
                softcap=self.softcap,
                coding=self.coding,
                name=f"{name}.attn",
            )
        )
        a = emit(relax.op.reshape(a, [self.batch, self.seq, q_width]))
        x = emit(relax.op.add(x, self.linear(a, f"{name}.attn.o", info.hidden)))
        both = self.linear(self.norm(x), f"{name}.mlp.gate_up", 2 * self.ffn)
        halves = emit(relax.op.split(both, 2, axis=-1))
        gate = emit(relax.op.nn.silu(emit(relax.TupleGetItem(halves, 0))))
        h = emit(relax.op.multiply(gate, emit(relax.TupleGetItem(halves, 1))))
        return emit(relax.op.add(x, self.linear(h, f"{name}.mlp.down", info.hidden)))

    def norm(self, x: relax.Expr) -> relax.Expr:
        return self.bb.emit(relax.op.nn.rms_norm(x, self.vars["ones"], axes=-1, epsilon=1e-5))

    def rotate(self, x: relax.Expr) -> relax.Expr:
        return self.bb.emit(rotary(x, self.vars["cos"], self.vars["sin"], self.position))

    def project(self, x: relax.Expr, which: str) -> relax.Expr:
        signs = self.vars[f"signs.{which}"]
        return self.bb.emit(hadamard(x, signs, block=8))

    def encode(self, x: relax.Expr, levels: int, group: int, name: str) -> tuple[relax.Expr, relax.Expr]:
        zone = 0.6 if name.endswith("down") else 0.0
        floor = 0.75 if name.endswith("gate_up") else 0.0
        both = self.bb.emit(
            spike_encode(
                x,
                levels=levels,
                group=group,
                clip_ratio=0.95,
                dead_zone=zone,
                floor=floor,
                coding=self.coding,
                name=name,
            )
        )
        return self.bb.emit(relax.TupleGetItem(both, 0)), self.bb.emit(relax.TupleGetItem(both, 1))

    def linear(self, x: relax.Expr, name: str, rows: int) -> relax.Expr:
        width = int(x.ty.shape.values[-1])
        counts, theta = self.encode(self.project(x, str(width)), self.levels, self.group, name)
        weight, scale, bias = (self.vars[f"{name}.{part}"] for part in ("weight", "scale", "bias"))
        acc = self.bb.emit(
            spike_accumulate(counts, weight, group=self.group, weight_bits=self.bits, name=name)
        )
        return self.bb.emit(readout(acc, theta, scale, bias if "qkv" in name else None))

    def declare(self) -> None:
        info = self.info
        self.add("embed", self.rng.normal(size=(info.vocab, info.hidden)))
        angles = np.arange(info.max_seq)[:, None] * 100.0 ** (-np.arange(info.head_dim // 2) / 4)
        self.add("cos", np.cos(angles))
        self.add("sin", np.sin(angles))
        self.add("ones", np.ones(info.hidden))
        q_width = info.heads * info.head_dim
        for width in sorted({info.hidden, q_width, self.ffn}):
            self.add(f"signs.{width}", self.rng.choice([-1, 1], width))
        self.add("signs.head", self.rng.choice([-1, 1], info.head_dim))
        for i in range(info.layers):
            name = f"layers.{i}"
            self.dense(f"{name}.attn.qkv", q_width + 2 * info.kv_heads * info.head_dim, info.hidden)
            self.dense(f"{name}.attn.o", info.hidden, q_width)
            self.dense(f"{name}.mlp.gate_up", 2 * self.ffn, info.hidden)
            self.dense(f"{name}.mlp.down", info.hidden, self.ffn)
        self.dense("head", info.vocab, info.hidden)

    def dense(self, name: str, rows: int, width: int) -> None:
        top = (1 << self.bits - 1) - 1
        integers = self.rng.integers(-top, top + 1, (rows, width)).astype(np.int8)
        self.params[f"{name}.weight"] = array_param(f"{name}.weight", integers)
        self.vars[f"{name}.weight"] = relax.Var(f"{name}.weight", relax.TensorType([rows, width], "int8"))
        self.add(f"{name}.scale", self.rng.uniform(0.5, 1.5, (rows, 1)) / (top * width**0.5 * 8**0.5))
        self.add(f"{name}.bias", self.rng.normal(size=rows) * 0.1)

    def add(self, name: str, array: NDArray) -> None:
        data = np.asarray(array, np.float32)
        self.params[name] = array_param(name, data)
        self.vars[name] = relax.Var(name, relax.TensorType(list(data.shape), "float32"))


CACHES = ("k_cache", "k_theta", "v_cache", "v_theta")
