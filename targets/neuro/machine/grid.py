"""The routers of all chips as one grid, and the coordinates of its cores.

A core's number counts cores of router 0 first, then router 1, and so on; routers are numbered row by row over
the whole board: router = y * width + x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine.description import Machine

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Geometry of the board.

    Attributes:
        width, height: Routers in x and y over all chips.
        cluster: Cores of one router.
        chip_width, chip_height: Routers of one chip.
        torus: Whether rows and columns close into rings.
    """

    width: int
    height: int
    cluster: int
    chip_width: int
    chip_height: int
    torus: bool

    @classmethod
    def of(cls, machine: Machine) -> Grid:
        """The grid of a machine's whole board.

        A torus of one virtual channel is used as a mesh: its rings could deadlock.
        """
        board = machine.board
        return cls(
            width=board.chips_x * board.routers_x,
            height=board.chips_y * board.routers_y,
            cluster=board.cores_per_router,
            chip_width=board.routers_x,
            chip_height=board.routers_y,
            torus=machine.network.topology == "torus" and machine.network.virtual_channels >= 2,
        )

    @property
    def routers(self) -> int:
        """Number of routers."""
        return self.width * self.height

    @property
    def cores(self) -> int:
        """Number of cores."""
        return self.routers * self.cluster

    @property
    def several_chips(self) -> tuple[bool, bool]:
        """Whether the board has more than one chip in x, and in y: a ring of one chip never leaves it."""
        return self.width > self.chip_width, self.height > self.chip_height

    def xy(self, core: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Router coordinates of cores."""
        router = np.asarray(core) // self.cluster
        return router % self.width, router // self.width

    def core(self, x: int, y: int, slot: int = 0) -> int:
        """Number of the core in a router's given slot."""
        return (y * self.width + x) * self.cluster + slot

    def chip(self, core: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the chip that each core is on, chips counted row by row."""
        x, y = self.xy(core)
        return (y // self.chip_height) * (self.width // self.chip_width) + x // self.chip_width

    def label(self, core: int) -> str:
        """``core 3,2`` (router x, y), with the slot where a router has several cores."""
        if not 0 <= core < self.cores:
            return f"core #{core} (outside the board)"
        router, slot = divmod(core, self.cluster)
        where = f"core {router % self.width},{router // self.width}"
        return where if self.cluster == 1 else f"{where}.{slot}"

    def distance(
        self, dx: NDArray[np.int64] | NDArray[np.float64], dy: NDArray[np.int64] | NDArray[np.float64]
    ) -> NDArray[Any]:
        """Hops between routers dx and dy apart."""
        dx, dy = np.abs(dx), np.abs(dy)
        if self.torus:
            dx, dy = np.minimum(dx, self.width - dx), np.minimum(dy, self.height - dy)
        return dx + dy
