"""What threads of a region claim: every turn of a step's loop once, each thread its own range first."""

from __future__ import annotations

import re
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
from sdc.targets.cpu.region.sync import (
    LINE,
    PIECE,
    PIECES,
    PLACE,
    RANGES,
    SHARES,
    claim,
    sync_functions,
    sync_ir,
    wait,
)


@cache
def claimer(each: int) -> Any:
    """``claim`` as a function of (line, [count, thread, threads], [taken, first, end])."""

    def body() -> None:
        line = declare("line", (LINE,), "uint8")
        numbers, found = declare("numbers", (3,), "int32"), declare("found", (PIECE,), "int32")
        with T.attr(0, "pragma_import_llvm", sync_ir(best_level())):
            count, thread, threads = (numbers[i] for i in range(3))
            claim(tirx.address_of(line[0]), count, each, thread, threads, tirx.address_of(found[0]))

    return build({**sync_functions(), "claim": prim_func("claim", body)}, best_level().target())["claim"]


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


@settings(max_examples=60)
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


def test_what_other_threads_wrote_is_read_after_a_wait_and_not_before() -> None:
    """LLVM takes memory behind a region's pointers for unchanged by a call that only reads a counter."""

    def body() -> None:
        line, data = declare("line", (LINE,), "uint8"), declare("data", (1,), "int32")
        read, place = declare("read", (2,), "int32"), declare("place", (PLACE,), "int64")
        with T.attr(0, "pragma_import_llvm", sync_ir(best_level())):
            store(read, (0,), data[0])
            begin, one = tirx.address_of(line[0]), tirx.const(1, "int32")
            wait(begin, one, begin, 0, one, one, tirx.address_of(place[0]))
            store(read, (1,), data[0])

    functions = {**sync_functions(), "twice": prim_func("twice", body)}
    code = build(functions, best_level().target()).inspect_source("ll")
    lines = [line for line in code.split("\n") if "#dbg_" not in line]
    calls = [
        i for i, line in enumerate(lines) if re.search(r"call .*@wait_for_step[.\d]*\(ptr.*i64 0,", line)
    ]
    assert calls
    assert all("fence acquire" in lines[i + 1] for i in calls)
