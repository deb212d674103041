"""Back ends by name."""

from __future__ import annotations

from sdc.errors import ConfigError
from sdc.targets.base import Target
from sdc.targets.cpu.target import CpuTarget
from sdc.targets.cuda.target import CudaTarget
from sdc.targets.neuro.target import NeuroTarget

__all__ = ["TARGETS", "find_target"]

TARGETS: dict[str, Target] = {"cpu": CpuTarget(), "cuda": CudaTarget(), "neuro": NeuroTarget()}


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        ConfigError: There is none that builds programs yet.
    """
    if name not in TARGETS:
        raise ConfigError(f'target "{name}" cannot build programs yet; targets are: {", ".join(TARGETS)}')
    return TARGETS[name]
