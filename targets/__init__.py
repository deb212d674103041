"""Back ends by name."""

from __future__ import annotations

import importlib

from sdc.errors import ConfigError
from sdc.targets.base import Target

__all__ = ["TARGETS", "find_target"]

# Imported when asked for: a program that runs on one target needs the memory of no other.
_CLASSES = {
    "cpu": ("sdc.targets.cpu.target", "CpuTarget"),
    "cuda": ("sdc.targets.cuda.target", "CudaTarget"),
    "neuro": ("sdc.targets.neuro.target", "NeuroTarget"),
}

# Those that were asked for.
TARGETS: dict[str, Target] = {}


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        ConfigError: There is none that builds programs yet.
    """
    if name not in _CLASSES:
        raise ConfigError(f'target "{name}" cannot build programs yet; targets are: {", ".join(_CLASSES)}')
    if name not in TARGETS:
        module, kind = _CLASSES[name]
        TARGETS[name] = getattr(importlib.import_module(module), kind)()
    return TARGETS[name]
