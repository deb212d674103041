"""Tracing activations to the rows that make them, and what must stop it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers.sketch import Sketch
from helpers.tiny_llama import tiny_llama
from tvm import relax

from sdc.ir.ops import attention, kv_append, linear
from sdc.passes.graph import Graph
from sdc.passes.trace import appended, made_by, value_path

W = np.ones((8, 8), np.float32)


def split_in(s: Sketch, parts: int) -> list[relax.Var]:
    split = s(relax.op.split(s(linear(s["x"], s.weight("w", W), name="fc")), parts, axis=-1))
    return [s(relax.TupleGetItem(split, i)) for i in range(parts)]


def test_a_part_of_a_split_is_a_range_of_rows() -> None:
    s = Sketch(x=[3, 8])
    parts = split_in(s, 4)
    out = [s(relax.op.exp(p)) for p in parts]
    graph = Graph(s.model(*out))
    rows = [made_by(graph, p) for p in parts]
    assert [(r.linear.name, r.start, r.stop) for r in rows if r] == [
        ("fc", 0, 2),
        ("fc", 2, 4),
        ("fc", 4, 6),
        ("fc", 6, 8),
    ]


@pytest.mark.parametrize(
    "use",
    [
        lambda s, a: [s(relax.op.exp(a)), s(relax.op.tanh(a))],
        lambda s, a: [s(relax.op.multiply(a, a))],
        lambda s, a: [s(relax.op.exp(a)), a],
    ],
    ids=["two readers", "one reader, twice", "returned"],
)
def test_a_second_reader_stops_it(use: Callable[[Sketch, relax.Var], list[relax.Var]]) -> None:
    s = Sketch(x=[3, 8])
    (part, other) = split_in(s, 2)
    graph = Graph(s.model(*use(s, part), s(relax.op.exp(other))))
    assert made_by(graph, part) is None
    assert made_by(graph, other) is not None


def test_a_split_along_tokens_stops_it() -> None:
    s = Sketch(x=[4, 8])
    split = s(relax.op.split(s(linear(s["x"], s.weight("w", W), name="fc")), 2, axis=0))
    part = s(relax.TupleGetItem(split, 1))
    graph = Graph(s.model(s(relax.op.exp(part))))
    assert made_by(graph, part) is None


def test_values_of_a_decoder() -> None:
    graph = Graph(tiny_llama(layers=1, heads=6, kv_heads=2, head_dim=8))
    paths = {n.name: value_path(graph, n) for n in graph.linears()}
    found = paths.pop("layers.0.attn.o")
    assert found is not None
    assert (found.rows.linear.name, found.heads, found.kv_heads, found.head_dim) == (
        "layers.0.attn.v",
        6,
        2,
        8,
    )
    assert set(paths.values()) == {None}


def cached(shared: bool, second: bool) -> Graph:
    """An attention whose K and V share a cache, or whose V cache a second attention reads."""
    s = Sketch(x=[1, 3, 8], k=[1, 2, 5, 4], v=[1, 2, 5, 4], p=([], "int64"))
    rows = s(linear(s["x"], s.weight("w", W), name="v"))
    values = s(kv_append(s["v"], s(relax.op.reshape(rows, [1, 3, 2, 4])), s["p"]))
    q = s(relax.op.reshape(s["x"], [1, 3, 2, 4]))
    keys = values if shared else s["k"]
    a = s(attention(q, keys, values, s["p"], scale=1.0, causal=True, name="a"))
    out = [s(linear(s(relax.op.reshape(a, [1, 3, 8])), s.weight("o", W), name="o"))]
    if second:
        out.append(s(attention(q, s["k"], values, s["p"], scale=1.0, causal=True, name="b")))
    return Graph(s.model(*out, values))


@pytest.mark.parametrize(
    ("shared", "second", "found"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_a_cache_that_two_arguments_read_stops_it(shared: bool, second: bool, found: bool) -> None:
    graph = cached(shared, second)
    (o,) = [n for n in graph.linears() if n.name == "o"]
    assert (value_path(graph, o) is not None) is found
    ((cache, _),) = graph.calls("sdc.kv_append")
    assert (appended(graph, cache) is not None) is found
