"""Instruction sets of a CPU, and which of them this machine has."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdc.errors import ConfigError, TargetError

if TYPE_CHECKING:
    import tvm

__all__ = ["LEVELS", "Isa", "best_level", "choose_objects", "host_features", "levels_for", "native"]


@dataclass(frozen=True)
class Isa:
    """One level of CPU features that kernels are generated for.

    Attributes:
        name: Key in the artefact, e.g. ``x86-64-v3``.
        lanes: 32-bit lanes of a vector register.
        features: LLVM feature names that the machine must have.
        dot: ``vnni`` (vpdpbusd), ``maddubs`` (x86 pairs of 16 bits), ``usdot`` (ARM with i8mm), ``sdot`` (ARM
            with dotprod) or ``plain`` (any machine).
        tile: Tokens, and vectors of rows, that the prefill kernel keeps in registers.
        attributes: LLVM's features switched on (+) and off (-).
    """

    name: str
    mcpu: str
    lanes: int
    features: tuple[str, ...]
    dot: str
    tile: tuple[int, int]
    attributes: tuple[str, ...] = ()

    def target(self) -> tvm.target.Target:
        """The LLVM target of this level."""
        import tvm  # programs run without the compiler

        options: dict[str, Any] = {"kind": "llvm"}
        if self.mcpu:
            options["mcpu"] = self.mcpu
        if self.attributes:
            options["mattr"] = list(self.attributes)
        if self.name.startswith("aarch64") and platform.machine().lower() not in ("aarch64", "arm64"):
            options["mtriple"] = "aarch64-linux-gnu"  # compiled, but not run here
        return tvm.target.Target(options)


# Feature sets: x86-64 psABI, micro-architecture levels v2 to v4, and AVX-VNNI of the Intel SDM; FEAT_I8MM and
# FEAT_DotProd of the Arm Architecture Reference Manual (DDI 0487), in all cores from Armv8.6 and 8.4 on. Best
# first.
LEVELS: tuple[Isa, ...] = (
    Isa(
        "x86-64-v4-vnni",
        "x86-64-v4",
        16,
        ("avx512f", "avx512bw", "avx512vl", "avx512vnni"),
        "vnni",
        (8, 2),
        ("+avx512vnni", "-prefer-256-bit"),
    ),
    Isa("x86-64-v3-vnni", "x86-64-v3", 8, ("avx2", "fma", "avxvnni"), "vnni", (6, 2), ("+avxvnni",)),
    Isa("x86-64-v3", "x86-64-v3", 8, ("avx2", "fma"), "maddubs", (2, 4)),
    Isa("x86-64-v2", "x86-64-v2", 4, ("sse4.1", "ssse3"), "maddubs", (1, 8)),
    Isa("aarch64-i8mm", "", 4, ("i8mm",), "usdot", (4, 2), ("+neon", "+i8mm")),
    Isa("aarch64-dotprod", "", 4, ("dotprod",), "sdot", (4, 2), ("+neon", "+dotprod")),
    Isa("generic", "", 4, (), "plain", (1, 8)),
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


def levels_for(mcpu: str | None) -> tuple[Isa, ...]:
    """What ``--mcpu`` asks for: None is every level of this machine's architecture, best first.

    Args:
        mcpu: The name of a level, or ``native``.

    Raises:
        ConfigError: There is no such level on this architecture.
    """
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    fitting = tuple(isa for isa in LEVELS if isa.name.startswith("x86-64") == on_x86)
    if mcpu is None:
        return fitting
    if mcpu == "native":
        return (native(),)
    chosen = tuple(isa for isa in LEVELS if isa.name == mcpu and (isa in fitting or isa.dot == "plain"))
    if not chosen:
        known = ", ".join(dict.fromkeys([*(isa.name for isa in fitting), "generic"]))
        raise ConfigError(f'mcpu "{mcpu}": this machine\'s programs are for native, {known}')
    return chosen


def native() -> Isa:
    """This machine's best level with all else that its processor has, as LLVM knows it by name."""
    import tvm

    level = best_level()
    name = str(tvm.get_global_func("tvm.codegen.llvm.GetHostCPUName")())
    features = _compiler_features()
    marks = tuple(f"{'+' if on else '-'}{feature}" for feature, on in sorted(features.items()))
    tuned = tuple(mark for mark in level.attributes if mark.startswith("-"))
    needed = tuple(sorted(_present() & {feature for feature, on in features.items() if on}))
    return replace(level, name=f"native-{name}", mcpu=name, features=needed, attributes=(*marks, *tuned))


def choose_objects(objects: Mapping[str, Sequence[str]], features: Mapping[str, Sequence[str]]) -> str:
    """The best of a program's machine codes that this machine can run.

    Args:
        objects: Their names, in any order: those of :data:`LEVELS` are ranked there, one processor's own code
            is better than these.
        features: What each needs, in LLVM's names; those of :data:`LEVELS` are known.

    Raises:
        TargetError: It lacks something for each of them.
    """
    present, needs = _present(), {**{isa.name: isa.features for isa in LEVELS}, **features}
    ranks = {isa.name: rank for rank, isa in enumerate(LEVELS)}
    for name in sorted(objects, key=lambda name: ranks.get(name, -1)):
        if present.issuperset(needs[name]):
            return name
    lacks = "; ".join(f"{name}: {', '.join(sorted(set(needs[name]) - present))}" for name in objects)
    raise TargetError(
        f"this machine cannot run the program, its processor lacks what it was compiled for ({lacks}); "
        "compile it here, or without --mcpu for every processor of this kind"
    )


def host_features() -> frozenset[str]:
    """This machine's features by their names in LLVM, so far as :data:`LEVELS` asks for them."""
    return _present() & {feature for level in LEVELS for feature in level.features}


@cache
def _present() -> frozenset[str]:
    """Features that the system names, by LLVM's names where those differ; others are not looked at."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux: the compiler knows
        return frozenset(feature for feature, on in _compiler_features().items() if on)
    flags = next((s for s in text.splitlines() if s.startswith(("flags", "Features"))), "").split()
    return frozenset(name for flag in flags for name in _names(flag))


def _names(flag: str) -> Iterator[str]:
    yield flag
    if flag in _LINUX_NAMES:
        yield _LINUX_NAMES[flag]


# Where Linux' name of a feature (arch/x86/include/asm/cpufeatures.h, arch/arm64/kernel/cpufeature.c) differs
# from LLVM's.
_LINUX_NAMES = {
    "avx512_vnni": "avx512vnni",
    "avx_vnni": "avxvnni",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "pni": "sse3",
    "bmi1": "bmi",
    "abm": "lzcnt",
    "pclmulqdq": "pclmul",
    "rdrand": "rdrnd",
    "lahf_lm": "sahf",
    "sha_ni": "sha",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_bitalg": "avx512bitalg",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "asimddp": "dotprod",
}


def _compiler_features() -> dict[str, bool]:
    """What LLVM says of this machine's processor: features on and off."""
    import tvm

    host = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(feature): bool(int(on)) for feature, on in host.items()}
