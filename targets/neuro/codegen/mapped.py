"""Where a mapping puts a model: its tiles and cores as the placement that code generation asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.targets.neuro.codegen.linear import SynapticLayer, Tile
from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.tiles import Partition

__all__ = ["MappedPlacement"]


class MappedPlacement:
    """Weights, caches and encoders lie where the mapping says.

    A stretch of vector operations is done by the first core of its encoder. Cores that the mapping
    does not know (tables, parts of a cache, more KV heads than tiles) are free ones near their users.

    Args:
        partition: A resident partition (one tile per core), of the module's own spike graph; for others see
            :class:`sdc.targets.neuro.codegen.streamed.StreamedPlacement`.
        core: [T] core of each tile.
    """

    def __init__(self, partition: Partition, core: NDArray[np.int64], machine: Machine) -> None:
        self.synapse_bytes = machine.core.synapse_memory_bytes
        self.external, self.streamed = machine.external_memory is not None, False
        self._partition, self._core, self._machine = partition, core, machine
        self._grid = Grid.of(machine)
        self._free = np.ones(machine.board.cores, np.bool_)
        self._free[core] = False
        self._of = {op.name: np.flatnonzero(partition.tiles.op == i) for i, op in enumerate(partition.ops)}

    def vector(self, layer: str) -> int:
        """The core of the layer's encoder; that of the last operation of all for ""."""
        name = f"{layer}.encode" if layer else self._partition.ops[-1].name
        return int(self._core[self._tiles(name)[0]])

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

    def stored_bits(self, bits: int) -> int:
        """The narrowest format of the machine that holds them."""
        return self._machine.core.stored_bits(bits)

    def attention(self, name: str, kv_heads: int, cores: int) -> Sequence[Sequence[int]]:
        """The cores of the attention's tiles, then free ones near them."""
        own = self._core[self._tiles(name)].tolist()
        out = []
        for head in range(kv_heads):
            mine = own[len(own) * head // kv_heads : len(own) * (head + 1) // kv_heads]
            near = mine[0] if mine else own[0]
            out.append([*mine[:cores], *(self.spare(near) for _ in range(cores - len(mine)))])
        return out

    def spare(self, near: int) -> int:
        """The nearest core that nothing else uses.

        Raises:
            TargetError: All are taken.
        """
        free = np.flatnonzero(self._free)
        if not len(free):
            board = self._machine.board
            raise TargetError(
                f"{self._machine.name}: all {board.cores:,} cores are taken ({board.chips:,} chips of "
                f"{board.cores_per_chip:,}), and the program needs another one"
            )
        x, y = self._grid.xy(free)
        here_x, here_y = self._grid.xy(np.array([near]))
        chosen = int(free[np.argmin(self._grid.distance(x - here_x, y - here_y))])
        self._free[chosen] = False
        return chosen

    def _tiles(self, name: str) -> NDArray[np.int64]:
        found: NDArray[np.int64] | None = self._of.get(name)
        if found is None or not len(found):
            raise TargetError(f"the mapping knows no operation {name}")
        return found
