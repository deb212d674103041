"""Blocks on a multiprocessor at once, against figures of NVIDIA's occupancy calculator."""

from __future__ import annotations

import pytest

from sdc.targets.cuda.occupancy import resident_blocks, resident_share


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks"),
    [
        ("sm_80", 256, 32, 0, 8),  # all 64 warps
        ("sm_80", 256, 33, 0, 6),  # 40 registers a thread are given: 51 warps, 48 in fours
        ("sm_80", 128, 255, 0, 2),  # 8 warps of 256 registers a thread
        ("sm_80", 32, 16, 0, 32),  # the most blocks
        ("sm_80", 128, 32, 48 * 1024, 3),  # 49 of 164 KiB each
        ("sm_89", 128, 32, 0, 12),  # 48 warps
        ("sm_90", 128, 228, 30688, 2),
        ("sm_90a", 1024, 20, 256, 2),
        ("sm_61", 128, 32, 0, 0),  # not known
    ],
)
def test_what_is_scarcest_decides(arch, threads, registers, shared, blocks) -> None:
    assert resident_blocks(arch, threads, registers, shared) == blocks


def test_occupancy_is_a_share_of_the_warps() -> None:
    assert resident_share("sm_80", 256, 6) == 0.75
    assert resident_share("sm_89", 100, 12) == 1.0
    assert resident_share("sm_61", 128, 2) == 0.0
