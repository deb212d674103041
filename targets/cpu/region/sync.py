"""What threads of a region agree by: a counter of claimed and one of finished pieces for every step.

TIR has no atomic operations, so these few lines are LLVM IR, which TVM's code generator links in and inlines
(``pragma_import_llvm``). They are the same for every processor that LLVM knows.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.isa import Isa

__all__ = ["LINE", "claim", "finish", "sync_ir", "wait"]

# A step's two counters, int32 each, have a cache line of their own.
LINE = 64

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
    return _IR.format(declared=declared, rest=rest, polls=_POLLS[is_x86], sleep=_SLEEP_MICROSECONDS)


_IR = """
{declared}
declare i32 @usleep(i32)

define i32 @sdc_claim(ptr %line, i32 %pieces) {{
  %first = atomicrmw add ptr %line, i32 %pieces monotonic
  ret i32 %first
}}

define i32 @sdc_finish(ptr %line, i32 %pieces) {{
  %finished = getelementptr i8, ptr %line, i64 4
  %before = atomicrmw add ptr %finished, i32 %pieces acq_rel
  ret i32 %before
}}

define i32 @sdc_wait(ptr %line, i32 %pieces) {{
entry:
  %finished = getelementptr i8, ptr %line, i64 4
  br label %poll
poll:
  %count = phi i32 [ 0, %entry ], [ %next, %again ]
  %now = load atomic i32, ptr %finished acquire, align 4
  %all = icmp sge i32 %now, %pieces
  br i1 %all, label %end, label %tired
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
  ret i32 0
}}
"""


def claim(line: Any, pieces: Any) -> Any:
    """Takes ``pieces`` pieces; the first one's number, which may lie beyond the last."""
    return tirx.call_extern("int32", "sdc_claim", line, pieces)


def finish(line: Any, pieces: Any) -> None:
    """Says that pieces are done; what they wrote is seen by whoever waits."""
    T.evaluate(tirx.call_extern("int32", "sdc_finish", line, pieces))


def wait(line: Any, pieces: Any) -> None:
    """Returns when so many pieces are done."""
    T.evaluate(tirx.call_extern("int32", "sdc_wait", line, pieces))
