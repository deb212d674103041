"""Where a mapping puts a model: its tiles and cores as the placement that code generation asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.ir.model import Coding, Model
from sdc.ir.ops import attributes, is_op, shape_of
from sdc.targets.neuro.codegen.linear import SynapticLayer, Tile
from sdc.targets.neuro.mapping.graph import SpikeGraph
from sdc.targets.neuro.mapping.llama import LlamaShape, llama_graph
from sdc.targets.neuro.mapping.statistics import SpikeStatistics
from sdc.targets.neuro.mapping.tiles import Partition

__all__ = ["MappedPlacement", "UnmappableError", "graph_of", "llama_names"]

_PARTS = ("attn.qkv", "attn.o", "mlp.gate_up", "mlp.down")
_DOWN = "layers.0.mlp.down"


class UnmappableError(TargetError):
    """The module is no Llama-type decoder, the only kind that mapping knows."""


def llama_names(model: Model) -> dict[str, str]:
    """The mapping's name of each linear layer and attention of a spiking Llama-type decoder.

    Exporters name layers as they like, so they are told apart by their order and shapes.

    Raises:
        UnmappableError: The linear layers are not qkv, o, gate_up and down per layer, and a head.
    """
    info, calls = model.info, _calls(model)
    linears = [c for c in calls if is_op(c, "sdc.spike_accumulate")]
    attentions = [c for c in calls if is_op(c, "sdc.spike_attention")]
    wanted = [f"layers.{i}.{part}" for i in range(info.layers) for part in _PARTS] + ["head"]
    if len(linears) != len(wanted) or len(attentions) != info.layers or not attentions:
        raise UnmappableError(
            f"only Llama-type decoders can be mapped: {len(wanted)} linear layers and {info.layers} "
            f"attentions were expected, there are {len(linears)} and {len(attentions)}"
        )
    ffn = _weight_shape(linears[3])[1]
    shapes = {
        "attn.qkv": ((info.heads + 2 * info.kv_heads) * info.head_dim, info.hidden),
        "attn.o": (info.hidden, info.heads * info.head_dim),
        "mlp.gate_up": (2 * ffn, info.hidden),
        "mlp.down": (info.hidden, ffn),
        "head": (info.vocab, info.hidden),
    }
    names = {}
    for call, name in zip(linears, wanted, strict=True):
        shape, expected = _weight_shape(call), shapes[name.split(".", 2)[-1]]
        if shape != expected:
            raise UnmappableError(
                f"only Llama-type decoders can be mapped: {attributes(call)['name']} has weights "
                f"{list(shape)}, {name} would have {list(expected)}"
            )
        names[attributes(call)["name"]] = name
    return names | {attributes(c)["name"]: f"layers.{i}.attn" for i, c in enumerate(attentions)}


def graph_of(model: Model, context: int = 512) -> SpikeGraph:
    """The spike graph of a spiking Llama-type decoder, named as :func:`llama_names` says.

    Raises:
        UnmappableError: It is no such decoder.
    """
    info, calls, names = model.info, _calls(model), llama_names(model)
    linears = [attributes(c) for c in calls if is_op(c, "sdc.spike_accumulate")]
    encoders = [
        attributes(c) for c in calls if is_op(c, "sdc.spike_encode") and attributes(c)["name"] in names
    ]
    attention = next(attributes(c) for c in calls if is_op(c, "sdc.spike_attention"))
    down = next(
        c for c in calls if is_op(c, "sdc.spike_accumulate") and names[attributes(c)["name"]] == _DOWN
    )
    shape = LlamaShape(
        info.name or "decoder",
        info.hidden,
        info.layers,
        info.heads,
        info.kv_heads,
        _weight_shape(down)[1],
        info.vocab,
        info.head_dim,
    )
    coding: Coding = encoders[0]["coding"]
    statistics = SpikeStatistics(
        levels=max(encoder["levels"] for encoder in encoders),
        coding=coding,
        group=max(linear["group"] for linear in linears),
        probability_levels=attention["levels"],
    )
    bits = max(linear["weight_bits"] for linear in linears)
    context = min(context, info.max_seq)
    return llama_graph(shape, statistics, weight_bits=bits, context=context, max_seq=info.max_seq)


def _calls(model: Model) -> list[Any]:
    return [b.value for block in model.module[model.entry].body.blocks for b in block.bindings]


def _weight_shape(call: Any) -> tuple[int, int]:
    rows, width = shape_of(call.args[1], "spike_accumulate")
    return int(rows), int(width)


class MappedPlacement:
    """Weights lie where the mapping says. The hub is the core of the embedding.

    A KV head's cache stays whole, on one core: where the mapping cuts it, or puts several heads on one core,
    free cores are taken.

    Args:
        partition: A resident partition (one tile per core).
        core: [T] core of each tile.
        cores: Cores of the machine.
        names: The mapping's name of each layer of the module, see :func:`llama_names`.

    Raises:
        TargetError: The partition streams its weights.
    """

    def __init__(
        self, partition: Partition, core: NDArray[np.int64], cores: int, names: Mapping[str, str]
    ) -> None:
        if partition.streamed:
            raise TargetError(
                f"the model needs {partition.waves} fillings of the cores; programs are generated for models "
                "whose weights all stay in the cores: choose a larger machine or narrower weights"
            )
        self._partition, self._core, self._cores = partition, core, cores
        self._names = {**names, "embed": "embed"}
        self._taken = set(core.tolist())
        self._of = {op.name: np.flatnonzero(partition.tiles.op == i) for i, op in enumerate(partition.ops)}

    @property
    def hub(self) -> int:
        """The core that holds the residual stream."""
        return int(self._core[self._tiles("embed")[0]])

    def tiles(self, layer: SynapticLayer) -> Sequence[Tile]:
        """The mapping's tiles of a layer."""
        tiles = self._partition.tiles
        return [
            Tile(
                int(self._core[t]),
                int(tiles.row0[t]),
                int(tiles.row1[t]),
                int(tiles.col0[t]),
                int(tiles.col1[t]),
            )
            for t in self._tiles(layer.name)
        ]

    def attention(self, name: str, kv_heads: int) -> Sequence[int]:
        """The cores of the attention's tiles, then free ones."""
        own = self._core[self._tiles(name)].tolist()[:kv_heads]
        return [*own, *(self._free() for _ in range(kv_heads - len(own)))]

    def _tiles(self, name: str) -> NDArray[np.int64]:
        found: NDArray[np.int64] | None = self._of.get(self._names.get(name, ""))
        if found is None or not len(found):
            raise TargetError(f"the mapping knows no operation {name}")
        return found

    def _free(self) -> int:
        for core in range(self._cores):
            if core not in self._taken:
                self._taken.add(core)
                return core
        raise TargetError(f"all {self._cores} cores are taken, and another KV head needs one")
