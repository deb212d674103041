"""What threads of a region agree by: counters of claimed pieces, and one of what is done, for every step.

TIR has no atomic operations, so these few lines are LLVM IR, which TVM's code generator links in
(``pragma_import_llvm``). They are the same for every processor that LLVM knows.

TVM has them inlined wherever they are called, which would be most of a region's code. So the longer ones are
called in one place each, by functions that regions call (:func:`sync_functions`).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.task import plain_function

__all__ = [
    "LINE",
    "PIECE",
    "PIECES",
    "PLACE",
    "RANGES",
    "SHARES",
    "claim",
    "finish",
    "sync_functions",
    "sync_ir",
    "wait",
]

# A step's counters, int32 each, have a cache line of their own: what is done, and claims from every range.
LINE = 64

RANGES = LINE // 4 - 1
"""Most ranges that a step is cut into: a thread has one of its own, beyond this many they share some.

A thread claims the pieces of its range one after another, which is one stream for the memory; then those that
the threads of other ranges have left. What one thread has claimed, no other one runs.
"""

PIECES = 2
"""Pieces of a step for each thread: how much of a range another thread can still take over."""

SHARES = 16
"""PIECES where many tokens meet every weight: the arithmetic takes the time, and a piece costs little."""

PIECE = 3
"""Numbers, int32, that say what a thread has claimed."""

PLACE = 2
"""Numbers, int64, by which a thread remembers how far it has read ahead, and of what."""

# A thread reads ahead at most so many bytes: they have to stay in its own cache until they are used. And at
# least so many, though all be done: memory is then at work while threads meet and prepare the next step.
_MOST_AHEAD = 1 << 18
_LEAST_AHEAD = 1 << 13

# Polls (some 50 microseconds) before a waiting thread goes to sleep: longer than an idle machine ever waits,
# far shorter than the time slice that another program has taken from the thread waited for. Sleeping gives
# the core away. An x86 processor rests some 40 cycles in each poll.
_POLLS = {True: 4000, False: 50000}  # by whether it is one
_SLEEP_MICROSECONDS = 50


def sync_ir(isa: Isa) -> str:
    """The functions that :func:`claim`, :func:`finish` and :func:`wait` call."""
    is_x86 = isa.name.startswith("x86-64")
    declared = "declare void @llvm.x86.sse2.pause()" if is_x86 else ""
    rest = "call void @llvm.x86.sse2.pause()" if is_x86 else ""
    return _IR.format(
        declared=declared,
        rest=rest,
        polls=_POLLS[is_x86],
        sleep=_SLEEP_MICROSECONDS,
        ranges=RANGES,
        most=_MOST_AHEAD,
        least=_LEAST_AHEAD,
    )


_IR = """
{declared}
declare i32 @usleep(i32)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)

define i32 @sdc_claim(ptr %line, i32 %count, i32 %each, i32 %thread, i32 %threads, ptr %turns) noinline {{
entry:
  %short = icmp ult i32 %count, {ranges}
  %most = select i1 %short, i32 %count, i32 {ranges}
  %few = icmp ult i32 %threads, %most
  %ranges = select i1 %few, i32 %threads, i32 %most
  %asked = mul i32 %threads, %each
  %fits = icmp ult i32 %asked, %count
  %claims = select i1 %fits, i32 %asked, i32 %count
  %padded = add i32 %claims, %ranges
  %up = sub i32 %padded, 1
  %pieces = udiv i32 %up, %ranges
  %home = urem i32 %thread, %ranges
  br label %look
look:
  %tried = phi i32 [ 0, %entry ], [ %more, %none ]
  %ahead = add i32 %home, %tried
  %range = urem i32 %ahead, %ranges
  %slot = add i32 %range, 1
  %counter = getelementptr i32, ptr %line, i32 %slot
  %seen = load atomic i32, ptr %counter monotonic, align 4
  %left = icmp slt i32 %seen, %pieces
  br i1 %left, label %take, label %none
take:
  %taken = atomicrmw add ptr %counter, i32 1 monotonic
  %got = icmp slt i32 %taken, %pieces
  br i1 %got, label %found, label %none
none:
  %more = add i32 %tried, 1
  %over = icmp sge i32 %more, %ranges
  br i1 %over, label %end, label %look
found:
  %before = mul i32 %range, %pieces
  %piece = add i32 %before, %taken
  %next = add i32 %piece, 1
  %all = mul i32 %pieces, %ranges
  %low = mul i32 %piece, %count
  %first = udiv i32 %low, %all
  %high = mul i32 %next, %count
  %last = udiv i32 %high, %all
  store i32 %first, ptr %turns, align 4
  %second = getelementptr i32, ptr %turns, i32 1
  store i32 %last, ptr %second, align 4
  ret i32 1
end:
  ret i32 0
}}

define i32 @sdc_finish(ptr %line, i32 %count) {{
  %before = atomicrmw add ptr %line, i32 %count acq_rel
  ret i32 %before
}}

define i32 @sdc_acquire() {{
  fence acquire
  ret i32 0
}}

define i32 @sdc_wait(ptr %line, i32 %total, ptr %weight, i64 %size, i32 %thread, i32 %threads, ptr %place)
    noinline {{
entry:
  %was = getelementptr i8, ptr %place, i64 8
  %before = load ptr, ptr %was, align 8
  %old = load i64, ptr %place, align 8
  %same = icmp eq ptr %before, %weight
  %from = select i1 %same, i64 %old, i64 0
  store ptr %weight, ptr %was, align 8
  %few = icmp ult i32 %threads, {ranges}
  %ranges = select i1 %few, i32 %threads, i32 {ranges}
  %home = urem i32 %thread, %ranges
  %parts = zext i32 %ranges to i64
  %share = udiv i64 %size, %parts
  %small = icmp ult i64 %share, {most}
  %bytes = select i1 %small, i64 %share, i64 {most}
  %little = icmp ult i64 %bytes, {least}
  %least = select i1 %little, i64 %bytes, i64 {least}
  %mine = zext i32 %home to i64
  %skipped = mul i64 %share, %mine
  %data = getelementptr i8, ptr %weight, i64 %skipped
  br label %poll
poll:
  %count = phi i32 [ 0, %entry ], [ %count, %fetch ], [ %next, %again ]
  %at = phi i64 [ %from, %entry ], [ %after, %fetch ], [ %at, %again ]
  %soon = icmp slt i64 %at, %least
  br i1 %soon, label %fetch, label %check
check:
  %now = load atomic i32, ptr %line acquire, align 4
  %all = icmp sge i32 %now, %total
  br i1 %all, label %end, label %busy
busy:
  %more = icmp slt i64 %at, %bytes
  br i1 %more, label %fetch, label %tired
fetch:
  %ahead = getelementptr i8, ptr %data, i64 %at
  call void @llvm.prefetch.p0(ptr %ahead, i32 0, i32 2, i32 1)
  %after = add i64 %at, 64
  br label %poll
tired:
  %next = add i32 %count, 1
  %sleepy = icmp sgt i32 %next, {polls}
  br i1 %sleepy, label %sleep, label %again
sleep:
  %slept = call i32 @usleep(i32 {sleep})
  br label %again
again:
  {rest}
  br label %poll
end:
  store i64 %at, ptr %place, align 8
  ret i32 0
}}
"""


_CLAIM, _WAIT = "claim_piece", "wait_for_step"


def sync_functions() -> dict[str, tirx.PrimFunc]:
    """What :func:`claim` and :func:`wait` call; for the module that :func:`sync_ir` is imported into."""
    return {_CLAIM: plain_function(_CLAIM, _claim), _WAIT: plain_function(_WAIT, _wait)}


def _claim() -> tuple[list[tuple[Any, Any]], list[Any]]:
    line = T.arg("line", T.handle("int32"))
    numbers = _numbers("count", "each", "thread", "threads")
    pointer = T.arg("piece", T.handle("int32"))
    piece = tirx.decl_buffer((PIECE,), "int32", "piece", data=pointer)
    taken = tirx.call_extern("int32", "sdc_claim", line, *numbers, tirx.address_of(piece[1]))
    T.buffer_store(piece, taken, [0])
    return [(piece, pointer)], []


def _wait() -> tuple[list[tuple[Any, Any]], list[Any]]:
    line, total = T.arg("line", T.handle("int32")), *_numbers("total")
    weight, size = T.arg("weight", T.handle("uint8")), T.arg("size", tirx.Var("size", "int64"))
    numbers, ahead = _numbers("thread", "threads"), T.arg("place", T.handle("int64"))
    T.evaluate(tirx.call_extern("int32", "sdc_wait", line, total, weight, size, *numbers, ahead))
    return [], []


def _numbers(*names: str) -> list[Any]:
    return [T.arg(name, tirx.Var(name, "int32")) for name in names]


def claim(line: Any, count: Any, each: int, thread: Any, threads: Any, piece: Any) -> None:
    """Takes a piece of a step, of the thread's own range if one is left.

    What there is to divide is computed there: TVM's simplifier would substitute it into every use.

    Args:
        count: Turns of the step's loop, at least one.
        each: Pieces for each thread, where there are as many turns.
        piece: A pointer to PIECE int32: 1, the piece's first turn and its last + 1; or 0, no piece is left.
    """
    numbers = (count, tirx.const(each, "int32"), thread, threads)
    T.evaluate(tirx.call_extern("int32", _CLAIM, line, *numbers, piece))


def finish(line: Any, count: Any) -> None:
    """Says that ``count`` more of a step is done; what was written is seen by whoever waits."""
    T.evaluate(tirx.call_extern("int32", "sdc_finish", line, count))


def wait(line: Any, total: Any, weight: Any, size: int, thread: Any, threads: Any, place: Any) -> None:
    """Returns when ``total`` of a step is done.

    Until then, the thread brings weights into its own cache: those of its range.

    Args:
        weight: A pointer to the weights that are read next.
        size: Their bytes; 0 for none.
        place: A pointer to PLACE numbers of this thread's, zero at first.
    """
    arguments = (line, total, weight, tirx.const(size, "int64"), thread, threads, place)
    T.evaluate(tirx.call_extern("int32", _WAIT, *arguments))
    # Of the call, LLVM knows only that a counter is read: it takes what lies behind a region's pointers for
    # unchanged, and may read it before.
    T.evaluate(tirx.call_extern("int32", "sdc_acquire"))
