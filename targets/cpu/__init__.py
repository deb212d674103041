"""The CPU target: TVM's LLVM code generation, integer dot products, one artefact for every x86-64 machine."""

from sdc.targets.cpu.target import CpuTarget

__all__ = ["CpuTarget"]
