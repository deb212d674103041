"""What threads of a region claim: every turn of a step's loop once, each thread its own range first."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.emit import build, declare, prim_func, store
from sdc.targets.cpu.isa import best_level
from sdc.targets.cpu.region.sync import LINE, PIECES, RANGES, SHARES, claim, sync_ir


@cache
def claimer(each: int) -> Any:
    """``claim`` as a function of (line, [count, thread, threads], [taken, first, end])."""

    def body() -> None:
        line = declare("line", (LINE,), "uint8")
        numbers, found = declare("numbers", (3,), "int32"), declare("found", (3,), "int32")
        with T.attr(0, "pragma_import_llvm", sync_ir(best_level())):
            count, thread, threads = (numbers[i] for i in range(3))
            places = tirx.address_of(line[0]), tirx.address_of(found[1])
            store(found, (0,), claim(places[0], count, each, thread, threads, places[1]))

    return build({"claim": prim_func("claim", body)}, best_level().target())["claim"]


def claims(each: int, count: int, threads: int, order: list[int]) -> list[tuple[int, int, int]]:
    """(thread, first, end) as threads claim in some order, until none is left."""
    line = tvm.runtime.tensor(np.zeros(LINE, np.uint8))
    made = []
    for turn in range(10 * (each * threads + threads)):
        thread = order[turn % len(order)] % threads
        found = tvm.runtime.tensor(np.zeros(3, np.int32))
        claimer(each)(line, tvm.runtime.tensor(np.array([count, thread, threads], np.int32)), found)
        taken, first, end = found.numpy().tolist()
        if not taken:
            return made
        made.append((thread, first, end))
    raise AssertionError("pieces without end")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, PIECES, SHARES]),
    st.integers(1, 400),
    st.integers(1, 40),
    st.lists(st.integers(0, 39), min_size=1, max_size=12),
)
def test_every_turn_is_claimed_once(each: int, count: int, threads: int, order: list[int]) -> None:
    turns = [turn for _, first, end in claims(each, count, threads, order) for turn in range(first, end)]
    assert sorted(turns) == list(range(count))


def test_a_thread_goes_through_its_range_and_then_helps_others() -> None:
    assert claims(2, 18, 2, [0, 1]) == [(0, 0, 4), (1, 9, 13), (0, 4, 9), (1, 13, 18)]
    assert claims(2, 18, 2, [0]) == [(0, 0, 4), (0, 4, 9), (0, 9, 13), (0, 13, 18)]


def test_threads_beyond_the_ranges_share_them() -> None:
    threads = RANGES + 1
    first = claims(1, 3 * threads, threads, [0, RANGES])
    assert [start for _, start, _ in first[:2]] == [0, first[0][2]]  # both of them in the first range
