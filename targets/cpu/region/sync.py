"""What threads of a region agree by: a counter of claimed and one of finished pieces for every step.

TIR has no atomic operations, so these few lines are LLVM IR, which TVM's code generator links in and inlines
(``pragma_import_llvm``). They are the same for every processor that LLVM knows.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.isa import Isa

__all__ = ["LINE", "PIECES", "PLACE", "SHARES", "claim", "finish", "sync_ir", "wait"]

# A step's two counters, int32 each, have a cache line of their own.
LINE = 64

PIECES = 2
"""Pieces of a step for each thread.

More would let the threads end closer together; but each piece is a stream that memory has to catch up with:
with 8 a kernel of 350 kB reads 20 GB/s, with 2 it reads 31.
"""

SHARES = 16
"""Pieces of a step for each thread where many tokens meet every weight: the arithmetic takes the time then.

With 2, threads ended a tenth apart on linears of few rows.
"""

PLACE = 2
"""Numbers, int64, by which a thread remembers how far it has read ahead, and of what."""

# A thread reads ahead at most so many bytes: they have to stay in its own cache until they are used.
_MOST_AHEAD = 1 << 18

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
        pieces=PIECES,
        most=_MOST_AHEAD,
    )


_IR = """
{declared}
declare i32 @usleep(i32)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)

define i32 @sdc_claim(ptr %line, i32 %pieces) {{
  %first = atomicrmw add ptr %line, i32 %pieces monotonic
  ret i32 %first
}}

define i32 @sdc_finish(ptr %line, i32 %pieces) {{
  %finished = getelementptr i8, ptr %line, i64 4
  %before = atomicrmw add ptr %finished, i32 %pieces acq_rel
  ret i32 %before
}}

define i32 @sdc_wait(ptr %line, i32 %pieces, ptr %weight, i64 %size, i32 %thread, i32 %threads, ptr %place) {{
entry:
  %finished = getelementptr i8, ptr %line, i64 4
  %was = getelementptr i8, ptr %place, i64 8
  %before = load ptr, ptr %was, align 8
  %old = load i64, ptr %place, align 8
  %same = icmp eq ptr %before, %weight
  %from = select i1 %same, i64 %old, i64 0
  store ptr %weight, ptr %was, align 8
  %piece = mul i32 %threads, {pieces}
  %parts = sext i32 %piece to i64
  %share = udiv i64 %size, %parts
  %small = icmp ult i64 %share, {most}
  %bytes = select i1 %small, i64 %share, i64 {most}
  %mine = sext i32 %thread to i64
  %skipped = mul i64 %share, %mine
  %data = getelementptr i8, ptr %weight, i64 %skipped
  br label %poll
poll:
  %count = phi i32 [ 0, %entry ], [ %count, %fetch ], [ %next, %again ]
  %at = phi i64 [ %from, %entry ], [ %after, %fetch ], [ %at, %again ]
  %now = load atomic i32, ptr %finished acquire, align 4
  %all = icmp sge i32 %now, %pieces
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


def claim(line: Any, pieces: Any) -> Any:
    """Takes ``pieces`` pieces; the first one's number, which may lie beyond the last."""
    return tirx.call_extern("int32", "sdc_claim", line, pieces)


def finish(line: Any, pieces: Any) -> None:
    """Says that pieces are done; what they wrote is seen by whoever waits."""
    T.evaluate(tirx.call_extern("int32", "sdc_finish", line, pieces))


def wait(line: Any, pieces: Any, weight: Any, size: int, thread: Any, threads: Any, place: Any) -> None:
    """Returns when so many pieces are done.

    Until then, the thread brings weights into its own cache that it is likely to claim next: threads claim
    from the front, so it is about the piece of its number.

    Args:
        weight: A pointer to the weights that are read next.
        size: Their bytes; 0 for none.
        place: A pointer to PLACE numbers of this thread's, zero at first.
    """
    arguments = (line, pieces, weight, tirx.const(size, "int64"), thread, threads, place)
    T.evaluate(tirx.call_extern("int32", "sdc_wait", *arguments))
