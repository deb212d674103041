"""Machine descriptions: what a many-core chip has, how fast it is, and what each event costs."""

from sdc.targets.neuro.machine.description import (
    Board,
    Core,
    Energy,
    ExternalMemory,
    Machine,
    Network,
)
from sdc.targets.neuro.machine.grid import Grid
from sdc.targets.neuro.machine.loader import MachineError, load_machine, parse_machine, shipped_machines

__all__ = [
    "Board",
    "Core",
    "Energy",
    "ExternalMemory",
    "Grid",
    "Machine",
    "MachineError",
    "Network",
    "load_machine",
    "parse_machine",
    "shipped_machines",
]
