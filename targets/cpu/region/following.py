"""Several tokens by one call: each is run and the next one chosen, without a way back to Python in between.

After a token's weights have passed through the caches, Python begins from memory: its few lines took 2 to 3 %
of a token's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.emit import declare, if_, let, load, local, loop, store, symbol, then
from sdc.targets.cpu.task import Task

__all__ = ["choose", "follow"]


def follow(token: Any, position: Any, logits: Any, step: Callable[[], None], choice: Task, name: str) -> None:
    """Emits the loop, after further parameters of the function that is being recorded.

    Those are ``settings`` [n, 3] float64 (of every choice, as
    :func:`sdc.targets.cpu.kernels.sample.sample` takes them), ``ends`` [e] int64 (tokens after which to stop;
    -1 among them, which is chosen where a logit is no number), ``made`` [n] int64 and ``count`` [1] int32:
    how many tokens are wanted, at most n; afterwards, how many were made.

    Args:
        token: A buffer [1, 1] int64: the first token to run; later the last one made.
        position: A buffer () int64, moved by one for every token that was run.
        logits: A buffer [vocab] float32 that a step writes.
        step: Emits one token's run.
        choice: The choice of a token, as a task.
        name: Of the task's function.
    """
    most, end_count = symbol("most"), symbol("end_count")
    settings = declare("settings", (most, 3), "float64")
    ends = declare("ends", (end_count,), "int64")
    made, count = declare("made", (most,), "int64"), declare("count", (1,), "int32")
    work = _work(choice)
    wanted, done = local(1, "int32"), local(1, "int32")
    store(wanted, (0,), load(count, (0,)))
    store(done, (0,), tirx.const(0, "int32"))
    with T.While(done[0] < wanted[0]):
        step()
        T.buffer_store(position, position[()] + tirx.const(1, "int64"), [])
        at = let(load(done, (0,)))
        store(done, (0,), at + 1)
        _call(name, (logits[0], settings[at, 0], made[at]), work)
        store(token, (0, 0), load(made, (at,)))
        with loop(end_count) as i, if_(load(ends, (i,)) == load(token, (0, 0))), then():
            store(wanted, (0,), tirx.const(0, "int32"))
    store(count, (0,), load(done, (0,)))


def choose(vocab: int, choice: Task, name: str) -> None:
    """Emits the choice of a token by itself: a function of logits [vocab] float32, settings [3] float64 and
    the result [1] int64."""
    logits, settings = declare("logits", (vocab,), "float32"), declare("settings", (3,), "float64")
    made = declare("made", (1,), "int64")
    _call(name, (logits[0], settings[0], made[0]), _work(choice))


def _work(choice: Task) -> list[Any]:
    """Pointers to the memory that a choice works in."""
    work = T.alloc_buffer((max(1, choice.scratch),), "uint8", scope="global", align=64)
    return [tirx.address_of(work[at]) for at in choice.work]


def _call(name: str, given: tuple[Any, ...], work: list[Any]) -> None:
    flags = (tirx.const(each, "int32") for each in (0, 1, 1))
    T.evaluate(tirx.call_extern("int32", name, *flags, *map(tirx.address_of, given), *work))
