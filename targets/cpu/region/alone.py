"""A task as a kernel that runs on its own, so that what is no region calls the same machine code."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.emit import loop, store
from sdc.targets.cpu.region.region import substitute
from sdc.targets.cpu.task import LEADING, Task
from sdc.targets.fused import emit

__all__ = ["alone"]


def alone(name: str, task: Task, symbol: str) -> tirx.PrimFunc:
    """The kernel whose task this is: the same arguments, and the loop divided among TVM's threads.

    Args:
        name: Of the kernel.
        task: Its symbolic lengths are never larger than it was recorded for.
        symbol: The name of the task's function, in the same module.
    """
    return emit.prim_func(name, lambda: _emit(task, symbol))


def _emit(task: Task, symbol: str) -> None:
    lengths = {v: emit.symbol(v.name) for v in task.arguments if isinstance(v, tirx.Var)}
    given: list[Any] = []
    for declared, parameter in zip(task.arguments, task.function.params[LEADING:], strict=False):
        if isinstance(declared, tirx.Var):
            given.append(lengths[declared])
            continue
        shape = [lengths.get(d, d) if isinstance(d, tirx.Var) else d for d in declared]
        buffer = emit.declare(parameter.name, shape, str(parameter.ty.element_type.dtype))
        given.append(tirx.address_of(buffer[(0,) * len(shape)]))

    def call(first: Any, fresh: Any, work: Any) -> None:
        numbers = (first, first + 1, fresh)
        pointers = (tirx.address_of(work[at]) for at in task.work)
        T.evaluate(tirx.call_extern("int32", symbol, *numbers, *given, *pointers))

    def work_area() -> Any:
        return T.alloc_buffer((task.scratch,), "uint8", scope="global", align=64) if task.work else None

    zero, one = tirx.const(0, "int32"), tirx.const(1, "int32")
    if isinstance(task.count, int) and task.count == 1:
        call(zero, one, work_area())
        return
    count = task.count if isinstance(task.count, int) else substitute(task.count, lengths)
    # From here on every thread runs for itself; the loop inside gives it its turns.
    with T.attr(0, "pragma_parallel_launch_point", 1):
        work = work_area()
        fresh = T.alloc_buffer((1,), "int32", scope="global")
        store(fresh, (0,), one)
        with loop(count, parallel=True) as turn:
            call(turn.astype("int32"), emit.load(fresh, (0,)), work)
            store(fresh, (0,), zero)
