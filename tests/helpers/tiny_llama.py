"""A tiny random decoder in the dialect's canonical float form, with real structure and no real meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from sdc.ir.model import Model, ModelInfo
from sdc.ir.ops import attention, kv_append, linear, rotary
from sdc.ir.params import FunctionSource, Param, array_param

__all__ = ["ONE_WIDTH", "decoder_inputs", "lazy_llama", "tiny_llama"]

EPSILON = 1e-5

# Of one layer whose matrices are all of one shape: few kernels to compile, where a test is not about shapes.
ONE_WIDTH = {"layers": 1, "kv_heads": 4, "ffn": 32, "vocab": 32}


def tiny_llama(
    *,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    ffn: int = 48,
    vocab: int = 64,
    max_seq: int = 32,
    tied: bool = True,
    bias: bool = False,
    seed: int = 0,
) -> Model:
    """A random Llama as the lift emits it: separate q, k, v, gate and up linears, gains in the norms.

    Activations have a few channels far larger than the others, as real models do.

    Args:
        tied: The head is the embedding table.
        bias: q, k and v have biases (as Qwen2's do).
    """
    info = ModelInfo(
        kind="decoder",
        name="tiny-llama",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        max_seq=max_seq,
    )
    return _Builder(info, ffn, tied, bias, seed).build()


def lazy_llama(*, ffn: int, **shape: int) -> Model:
    """A random Llama whose matrices are drawn each time they are read, so that it takes no memory itself."""
    return _LazyBuilder(ModelInfo(kind="decoder", name="lazy-llama", **shape), ffn, True, False, 0).build()


def decoder_inputs(
    model: Model, tokens: NDArray, position: int = 0, caches: tuple[NDArray, ...] | None = None
) -> tuple[NDArray, ...]:
    """Inputs of ``forward``: tokens [batch, n], the position, and caches (empty where None)."""
    function = model.module["forward"]
    if caches is None:
        types = [p.ty for p in list(function.params)[2 : int(function.attrs["num_input"])]]
        caches = tuple(
            np.zeros((len(tokens), *[int(d) for d in t.shape.values[1:]]), str(t.dtype)) for t in types
        )
    return (np.asarray(tokens, np.int64), np.asarray(position, np.int64), *caches)


@dataclass
class _Builder:
    info: ModelInfo
    ffn: int
    tied: bool
    bias: bool
    seed: int
    params: dict[str, Param] = field(default_factory=dict)
    vars: dict[str, relax.Var] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.bb = relax.BlockBuilder()
        self.batch, self.seq = tirx.Var("batch", "int64"), tirx.Var("seq", "int64")

    def build(self) -> Model:
        info = self.info
        tokens = relax.Var("tokens", relax.TensorType([self.batch, self.seq], "int64"))
        self.position = relax.Var("position", relax.TensorType([], "int64"))
        cache = relax.TensorType([self.batch, info.kv_heads, info.max_seq, info.head_dim], "float32")
        self.caches = [relax.Var(f"{kv}_cache_{i}", cache) for i in range(info.layers) for kv in "kv"]
        inputs = [tokens, self.position, *self.caches]
        weights = self.declare()
        with self.bb.function("forward", [*inputs, *weights], attrs={"num_input": len(inputs)}):
            with self.bb.dataflow():
                flat = self.bb.emit(relax.op.reshape(tokens, [-1]))
                rows = self.bb.emit(relax.op.take(self.vars["embed.weight"], flat, axis=0))
                x = self.bb.emit(relax.op.reshape(rows, [self.batch, self.seq, info.hidden]))
                written: list[relax.Expr] = []
                for i in range(info.layers):
                    x = self.layer(i, x, written)
                head = "embed.weight" if self.tied else "head.weight"
                logits = self.bb.emit(linear(self.norm(x, "norm.weight"), self.vars[head], name="head"))
                out = self.bb.emit_output(relax.Tuple([logits, *written]))
            self.bb.emit_func_output(out)
        return Model(self.bb.get(), self.params, info)

    def layer(self, i: int, x: relax.Expr, written: list[relax.Expr]) -> relax.Expr:
        info, name = self.info, f"layers.{i}"
        h = self.norm(x, f"{name}.attn_norm.weight")
        q = self.rotate(self.split_heads(self.linear(h, f"{name}.attn.q"), info.heads))
        k = self.rotate(self.split_heads(self.linear(h, f"{name}.attn.k"), info.kv_heads))
        v = self.split_heads(self.linear(h, f"{name}.attn.v"), info.kv_heads)
        keys = self.bb.emit(kv_append(self.caches[2 * i], k, self.position))
        values = self.bb.emit(kv_append(self.caches[2 * i + 1], v, self.position))
        written += [keys, values]
        scale = info.head_dim**-0.5
        a = self.bb.emit(
            attention(q, keys, values, self.position, scale=scale, causal=True, name=f"{name}.attn")
        )
        a = self.bb.emit(relax.op.reshape(a, [self.batch, self.seq, info.heads * info.head_dim]))
        x = self.bb.emit(relax.op.add(x, self.linear(a, f"{name}.attn.o")))
        h = self.norm(x, f"{name}.mlp_norm.weight")
        gate = self.bb.emit(relax.op.nn.silu(self.linear(h, f"{name}.mlp.gate")))
        h = self.bb.emit(relax.op.multiply(gate, self.linear(h, f"{name}.mlp.up")))
        return self.bb.emit(relax.op.add(x, self.linear(h, f"{name}.mlp.down")))

    def norm(self, x: relax.Expr, gain: str) -> relax.Expr:
        return self.bb.emit(relax.op.nn.rms_norm(x, self.vars[gain], axes=-1, epsilon=EPSILON))

    def linear(self, x: relax.Expr, name: str) -> relax.Expr:
        bias = self.vars.get(f"{name}.bias")
        return self.bb.emit(linear(x, self.vars[f"{name}.weight"], bias, name=name))

    def split_heads(self, x: relax.Expr, heads: int) -> relax.Expr:
        return self.bb.emit(relax.op.reshape(x, [self.batch, self.seq, heads, self.info.head_dim]))

    def rotate(self, x: relax.Expr) -> relax.Expr:
        return self.bb.emit(rotary(x, self.vars["rope.cos"], self.vars["rope.sin"], self.position))

    def declare(self) -> list[relax.Var]:
        """All weights, in the order of their first use."""
        info = self.info
        self.weight("embed.weight", info.vocab, info.hidden)
        for i in range(info.layers):
            self.declare_layer(f"layers.{i}", first=i == 0)
        self.gain("norm.weight")
        if not self.tied:
            self.weight("head.weight", info.vocab, info.hidden)
        return list(self.vars.values())

    def declare_layer(self, name: str, first: bool) -> None:
        info = self.info
        self.gain(f"{name}.attn_norm.weight")
        self.dense(f"{name}.attn.q", info.heads * info.head_dim, info.hidden, self.bias)
        if first:
            self.tables()
        self.dense(f"{name}.attn.k", info.kv_heads * info.head_dim, info.hidden, self.bias)
        self.dense(f"{name}.attn.v", info.kv_heads * info.head_dim, info.hidden, self.bias)
        self.dense(f"{name}.attn.o", info.hidden, info.heads * info.head_dim)
        self.gain(f"{name}.mlp_norm.weight")
        self.dense(f"{name}.mlp.gate", self.ffn, info.hidden)
        self.dense(f"{name}.mlp.up", self.ffn, info.hidden)
        self.dense(f"{name}.mlp.down", info.hidden, self.ffn)

    def dense(self, name: str, rows: int, columns: int, bias: bool = False) -> None:
        self.weight(f"{name}.weight", rows, columns)
        if bias:
            self.add(f"{name}.bias", self.rng.normal(size=rows).astype(np.float32))

    def weight(self, name: str, rows: int, columns: int) -> None:
        self.add(name, self.rng.normal(size=(rows, columns)).astype(np.float32) / np.float32(columns**0.5))

    def gain(self, name: str) -> None:
        gain = self.rng.uniform(0.5, 1.5, self.info.hidden).astype(np.float32)
        gain[:: max(1, self.info.hidden // 3)] *= 8  # the outlier channels
        self.add(name, gain)

    def tables(self) -> None:
        half = self.info.head_dim // 2
        angles = np.arange(self.info.max_seq)[:, None] * 10000.0 ** (-np.arange(half) / half)
        self.add("rope.cos", np.cos(angles).astype(np.float32))
        self.add("rope.sin", np.sin(angles).astype(np.float32))

    def add(self, name: str, array: NDArray) -> None:
        self.params[name] = array_param(name, array)
        self.vars[name] = relax.Var(name, relax.TensorType(list(array.shape), "float32"))


@dataclass
class _LazyBuilder(_Builder):
    def weight(self, name: str, rows: int, columns: int) -> None:
        draw = partial(_drawn, len(self.params), rows, columns)
        self.params[name] = Param(name, (rows, columns), "float32", FunctionSource(draw, "drawn"))
        self.vars[name] = relax.Var(name, relax.TensorType([rows, columns], "float32"))


def _drawn(seed: int, rows: int, columns: int) -> NDArray:
    values = np.random.default_rng(seed).standard_normal((rows, columns), np.float32)
    return values / np.float32(columns**0.5)
