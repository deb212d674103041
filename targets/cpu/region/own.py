"""Steps that every thread runs for itself: short ones, which take less time than agreeing on who does them.

Norms, gates and encoders of one token are some thousand instructions. A thread that runs them itself, into
its own work area, needs to wait for nobody and has the counts in its own cache; so only linears, attention
and what writes the caches end with all threads waiting for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdc.targets.cpu.region.plan import Slot, place
from sdc.targets.cpu.region.program import Step, Steps
from sdc.targets.cpu.task import Task

__all__ = ["OwnSteps"]


class OwnSteps:
    """Which steps every thread runs for itself, and where their results lie.

    Args:
        steps: Of one token; their slots' lives are lengthened.
        tasks: Of those kernels that a thread may run for itself.

    Attributes:
        numbers: Of those steps.
        shared: The slots of all other steps' results, which live until no thread can read them.
        slots: The slots in each thread's work area; their offsets count from its beginning.
    """

    def __init__(self, steps: Steps, tasks: Mapping[str, Task]) -> None:
        made = {slot.first for slot in steps.slots if slot is not steps.result}
        short = (n for n in made if _is_short(steps.calls[n], tasks.get(steps.calls[n].kernel)))
        self.numbers = frozenset(short)
        self.slots = [slot for slot in steps.slots if slot.first in self.numbers]
        self.shared = [s for s in steps.slots if s.first not in self.numbers and s is not steps.result]
        readers = _readers(steps)
        until = self._until(readers)
        for slot in self.shared:
            slot.last = max([slot.last, *(until[n] for n in readers[id(slot)] if n in self.numbers)])

    def _until(self, readers: Mapping[int, Sequence[int]]) -> dict[int, int]:
        """Of every own step, the last step whose pieces its results go into, by way of other own steps too.

        Others may run far ahead of a thread that has lost its core. What it then makes of memory that was
        written over does no harm where it comes too late for a piece. A thread that still gets a piece of a
        step knows that nobody was beyond that step before: so long, what its own steps read has to stay.
        """
        until: dict[int, int] = {}
        for slot in sorted(self.slots, key=lambda slot: slot.first, reverse=True):
            last = [until.get(n, n) for n in readers[id(slot)]]
            until[slot.first] = max([until.get(slot.first, slot.first), *last])
        return until

    def place(self, start: int) -> int:
        """Puts the slots into a work area, from ``start`` on; returns where it ends."""
        return place(self.slots, start)


def _readers(steps: Steps) -> dict[int, list[int]]:
    """The steps after its own one that a slot is an argument of, by the slot's identity."""
    found: dict[int, list[int]] = {id(slot): [] for slot in steps.slots}
    for number, step in enumerate(steps.calls):
        for slot, _ in step.arguments:
            if isinstance(slot, Slot) and slot.first < number:
                found[id(slot)].append(number)
    return found


def _is_short(step: Step, task: Task | None) -> bool:
    """Whether a step is one piece of work for one token that writes nothing but its own results."""
    return task is not None and isinstance(task.count, int) and task.count == 1 and not step.in_place
