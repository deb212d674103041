"""How many blocks of a kernel a multiprocessor holds at once, by what each of them takes of it.

Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Units in which a
multiprocessor gives registers and shared memory away, and the 1 KiB of the latter that the system takes for
each block: the spreadsheet "CUDA Occupancy Calculator" of the toolkit (up to 11.4), for 8.0 and newer.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["resident_blocks", "resident_share"]

_WARP = 32
_REGISTERS = 65536
_REGISTER_UNIT = 256  # of a warp
_WARP_UNIT = 4  # warps whose registers a multiprocessor gives at once: one for each of its parts
_SHARED_UNIT, _SHARED_SYSTEM = 128, 1024


@dataclass(frozen=True)
class _Multiprocessor:
    """Most warps and blocks, and bytes of shared memory."""

    warps: int
    blocks: int
    shared: int


_MULTIPROCESSORS = {
    "sm_80": _Multiprocessor(64, 32, 164 * 1024),
    "sm_86": _Multiprocessor(48, 16, 100 * 1024),
    "sm_87": _Multiprocessor(48, 16, 164 * 1024),
    "sm_89": _Multiprocessor(48, 24, 100 * 1024),
    "sm_90": _Multiprocessor(64, 32, 228 * 1024),
    "sm_100": _Multiprocessor(64, 32, 228 * 1024),
    "sm_120": _Multiprocessor(48, 24, 100 * 1024),
}


def resident_blocks(arch: str, threads: int, registers: int, shared: int) -> int:
    """Blocks on a multiprocessor at once; 0 where the architecture's limits are not known here.

    Args:
        threads: Of a block.
        registers: Of a thread.
        shared: Bytes of shared memory of a block.
    """
    limits = _MULTIPROCESSORS.get(arch.rstrip("abcdefghijklmnopqrstuvwxyz"))
    if limits is None:
        return 0
    warps = -(-threads // _WARP)
    of_warp = -(-max(1, registers) * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    by_registers = _REGISTERS // of_warp // _WARP_UNIT * _WARP_UNIT // warps
    of_block = -(-(shared + _SHARED_SYSTEM) // _SHARED_UNIT) * _SHARED_UNIT
    return min(limits.blocks, limits.warps // warps, by_registers, limits.shared // of_block)


def resident_share(arch: str, threads: int, blocks: int) -> float:
    """Occupancy: the warps of so many blocks, of the most that a multiprocessor holds; 0 where not known."""
    limits = _MULTIPROCESSORS.get(arch.rstrip("abcdefghijklmnopqrstuvwxyz"))
    return blocks * -(-threads // _WARP) / limits.warps if limits else 0.0
