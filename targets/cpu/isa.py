"""Instruction sets of a CPU, and which of them this machine has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdc.errors import TargetError

if TYPE_CHECKING:
    import tvm

__all__ = ["LEVELS", "Isa", "best_level", "host_features"]


@dataclass(frozen=True)
class Isa:
    """One level of CPU features that kernels are generated for.

    Attributes:
        name: Key in the artefact, e.g. ``x86-64-v3``.
        lanes: 32-bit lanes of a vector register.
        features: LLVM feature names that the machine must have.
        dot: ``vnni`` (vpdpbusd), ``maddubs`` (x86 pairs of 16 bits), ``usdot`` (ARM with i8mm) or ``plain``
            (any machine).
        rows: Tokens that the prefill kernel keeps in registers.
    """

    name: str
    mcpu: str
    lanes: int
    features: tuple[str, ...]
    dot: str
    rows: int

    def target(self) -> tvm.target.Target:
        """The LLVM target of this level."""
        import tvm  # programs run without the compiler

        options: dict[str, Any] = {"kind": "llvm"}
        if self.mcpu:
            options["mcpu"] = self.mcpu
        if self.dot == "vnni":
            options["mattr"] = ["+avx512vnni", "-prefer-256-bit"]
        elif self.dot == "usdot":
            options["mattr"] = ["+neon", "+i8mm"]
            if platform.machine().lower() not in ("aarch64", "arm64"):
                options["mtriple"] = "aarch64-linux-gnu"  # compiled, but not run here
        return tvm.target.Target(options)


# Feature sets: x86-64 psABI, micro-architecture levels v2 to v4; FEAT_I8MM of the Arm Architecture Reference
# Manual (DDI 0487), in all cores from Armv8.6 on. Best first.
LEVELS: tuple[Isa, ...] = (
    Isa("x86-64-v4-vnni", "x86-64-v4", 16, ("avx512f", "avx512bw", "avx512vl", "avx512vnni"), "vnni", 8),
    Isa("x86-64-v3", "x86-64-v3", 8, ("avx2", "fma"), "maddubs", 3),
    Isa("x86-64-v2", "x86-64-v2", 4, ("sse4.1", "ssse3"), "maddubs", 1),
    Isa("aarch64-i8mm", "", 4, ("i8mm",), "usdot", 4),
    Isa("generic", "", 4, (), "plain", 1),
)


def best_level(names: tuple[str, ...] | None = None) -> Isa:
    """The best level that this machine has, among ``names`` (default: all).

    Raises:
        TargetError: It has none of them.
    """
    present = host_features()
    for level in LEVELS:
        if (names is None or level.name in names) and present.issuperset(level.features):
            return level
    raise TargetError(f"this machine runs none of the instruction sets {', '.join(names or ())}")


@cache
def host_features() -> frozenset[str]:
    """This machine's features by their names in LLVM, so far as :data:`LEVELS` asks for them."""
    known = {feature for level in LEVELS for feature in level.features}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux: the compiler knows
        return frozenset(known & _compiler_features())
    flags = next((s for s in text.splitlines() if s.startswith(("flags", "Features"))), "").split()
    return frozenset(known & {_LINUX_NAMES.get(flag, flag) for flag in flags})


# Where Linux' name of a feature (arch/x86/include/asm/cpufeatures.h) differs from LLVM's.
_LINUX_NAMES = {"avx512_vnni": "avx512vnni", "sse4_1": "sse4.1"}


def _compiler_features() -> set[str]:
    import tvm

    host = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(feature) for feature, on in host.items() if int(on)}
