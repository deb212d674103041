"""Energies of single operations and memory accesses, as published.

Neither table has 4-bit numbers, and the 7 nm one has no 16-bit integers: those entries are scaled from the
8-bit ones, additions linearly with width, multiplications quadratically (the partial products of an array
multiplier), and are listed as ``derived``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdc.errors import ConfigError

__all__ = ["HOROWITZ_45NM", "JOUPPI_7NM", "SDLLM_PAPER", "TABLES", "EnergyTable", "find_table"]

WORD_BYTES = 8
"""An SRAM or DRAM access of both tables is 64 bits wide."""

NONLINEAR_STEPS = 8
"""Multiply-adds of one exponential, root or the like: Cephes' ``expf`` has a degree-5 polynomial and three
multiply-adds that reduce its argument (S. Moshier, Cephes Mathematical Library, expf.c)."""


@dataclass(frozen=True)
class EnergyTable:
    """Energies of one technology, in picojoules.

    Attributes:
        name: As the command line knows it.
        source: Where the numbers are from.
        add: One addition by number type (int4, int8, int16, int32, fp16, fp32).
        multiply: One multiplication by number type.
        local_word: One 64-bit access of an 8 KB SRAM: what stands beside an arithmetic unit.
        global_word: One 64-bit access of a 1 MB SRAM: what a chip's units share.
        dram_word: 64 bits from external memory.
        derived: Entries that are scaled from others, not published.
    """

    name: str
    source: str
    add: Mapping[str, float]
    multiply: Mapping[str, float]
    local_word: float
    global_word: float
    dram_word: float
    derived: tuple[str, ...] = ()

    def mac(self, number: str, accumulate: str) -> float:
        """One multiplication of ``number`` and one addition of ``accumulate``."""
        return self.multiply[number] + self.add[accumulate]

    @property
    def nonlinear(self) -> float:
        """One exponential, root or the like, as multiply-adds of float32."""
        return NONLINEAR_STEPS * self.mac("fp32", "fp32")

    def per_byte(self, level: str) -> float:
        """One byte of ``local``, ``global`` or ``dram`` memory, in accesses of whole words."""
        words = {"local": self.local_word, "global": self.global_word, "dram": self.dram_word}
        return words[level] / WORD_BYTES


HOROWITZ_45NM = EnergyTable(
    name="horowitz-45nm",
    source="M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, fig. 1.1.9",
    add={"int4": 0.015, "int8": 0.03, "int16": 0.05, "int32": 0.1, "fp16": 0.4, "fp32": 0.9},
    multiply={"int4": 0.05, "int8": 0.2, "int32": 3.1, "fp16": 1.1, "fp32": 3.7},
    local_word=10.0,
    global_word=100.0,
    dram_word=1300.0,  # "1.3-2.6 nJ": the lower end, kinder to formats that move more bytes
    derived=("add int4", "multiply int4"),
)

JOUPPI_7NM = EnergyTable(
    name="jouppi-7nm",
    source="N. P. Jouppi et al., Ten lessons from three generations shaped Google's TPUv4i, ISCA 2021, "
    "picojoules per operation, p. 3",
    add={"int4": 0.0035, "int8": 0.007, "int16": 0.014, "int32": 0.03, "fp16": 0.16, "fp32": 0.38},
    multiply={"int4": 0.0175, "int8": 0.07, "int32": 1.48, "fp16": 0.34, "fp32": 1.31},
    local_word=7.5,
    global_word=14.0,
    dram_word=250.0,  # HBM2, "250-450": the lower end
    derived=("add int4", "add int16", "multiply int4"),
)

# What the energy table of SDLLM (arXiv 2604.16475) comes out of, found by solving for it (see
# sdc/energy/paper.py): the 45 nm float32 energies (multiply 3.7, add 0.9), charged in full for FP16 and at
# 4 / 32 of that for 4-bit numbers. Memory is not part of the paper's count; the 45 nm accesses stand here.
SDLLM_PAPER = EnergyTable(
    name="sdllm-paper",
    source="arithmetic: reconstructed from the results of arXiv 2604.16475; memory: horowitz-45nm",
    add={"int4": 0.9 / 8, "int8": 0.9 / 4, "int16": 0.9 / 2, "int32": 0.9, "fp16": 0.9, "fp32": 0.9},
    multiply={"int4": 3.7 / 8, "int8": 3.7 / 4, "int32": 3.7, "fp16": 3.7, "fp32": 3.7},
    local_word=HOROWITZ_45NM.local_word,
    global_word=HOROWITZ_45NM.global_word,
    dram_word=HOROWITZ_45NM.dram_word,
    derived=("add int4", "add int8", "add int16", "multiply int4", "multiply int8", "fp16 as fp32"),
)

TABLES = {table.name: table for table in (HOROWITZ_45NM, JOUPPI_7NM, SDLLM_PAPER)}


def find_table(name: str) -> EnergyTable:
    """The table of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in TABLES:
        raise ConfigError(f'there is no energy table "{name}"; tables are: {", ".join(TABLES)}')
    return TABLES[name]
