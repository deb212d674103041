"""The functional simulator: runs the binaries of all cores, bit-exactly; spikes travel as packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.isa.errors import ExecutionError
from sdc.targets.neuro.isa.program import HOST, Program, Route
from sdc.targets.neuro.simulate import events, units
from sdc.targets.neuro.simulate.core import Core
from sdc.targets.neuro.simulate.network import Inbox, Message, Traffic, concatenate, count

__all__ = ["HANDLERS", "FunctionalSimulator", "Observer"]

HANDLERS: Final[dict[str, Callable[..., Any]]] = {
    **units.CONTROL,
    **units.LOAD,
    **units.ENCODE,
    **units.CACHE,
    **units.VECTOR,
    "slot": events.slot,
    "send": events.send,
    "accum": events.accum,
    "sendw": events.sendw,
    "recvw": events.recvw,
    "readout": events.readout,
}
PATIENCE: Final = 10_000_000  # instructions of one core without waiting: more is an endless loop


class Observer(Protocol):
    """Watches a simulation; see :class:`sdc.targets.neuro.simulate.recording.Recorder`."""

    def executed(self, core: Core, pc: int) -> None:
        """A core has executed the instruction at ``pc`` (not counted on yet)."""

    def put(self, core: int, tag: int, packets: int) -> None:
        """The host has sent words to a core."""

    def take(self, tag: int, sources: int) -> None:
        """The host has taken words."""


class FunctionalSimulator:
    """All cores of a program. A core runs until it waits for packets; whoever gets packets runs again.

    Args:
        program: What each core does.
        external: Contents of the external memory, uint8.

    Attributes:
        observer: Told of every instruction executed and of everything that the host sends and takes.
        traffic: Packets sent, fanned out, delivered and taken so far.
        watch: Called after every ``count`` with core, instruction, counts [len] int32 and thresholds.
    """

    def __init__(self, program: Program, external: NDArray | None = None) -> None:
        self.traffic = Traffic()
        self.observer: Observer | None = None
        self.program = program
        self._external = np.zeros(0, np.uint8) if external is None else external
        self._host = Inbox(self.traffic)
        self.cores: dict[int, Core] = {}
        self.watch: Callable[[int, int, NDArray, NDArray], None] | None = None
        self.reset()

    def reset(self) -> None:
        """Every core as after loading: memory, position, queues, statistics."""
        self.traffic = Traffic()
        self._host = Inbox(self.traffic)
        self.cores = {
            core.core: Core(core, Inbox(self.traffic), self._post, self._external, self._counted)
            for core in self.program.cores
        }
        self._ready = dict.fromkeys(self.cores)
        self._at_barrier: dict[int, set[int]] = {}

    def put(self, core: int, tag: int, words: NDArray) -> None:
        """The host sends a vector of 32-bit words (any dtype of 4 bytes) to a core."""
        message = Message("word", np.arange(len(words)), np.asarray(words).view(np.uint32).copy())
        count(self.traffic.sent, message)
        self._deliver(HOST, Route(tag, (core,)), message)
        if self.observer is not None:
            self.observer.put(core, tag, len(message))

    def take(self, tag: int, sources: int = 1) -> NDArray:
        """The host takes a vector that ``sources`` cores sent it: uint32, in the order of their indices.

        Raises:
            ExecutionError: It has not come, though no core can go on: what each core waits for is listed.
        """
        self.run()
        messages = self._host.take(tag, sources)
        if messages is None:
            raise ExecutionError(
                None, None, f"DEADLOCK: nothing for the host under tag {tag}; {self._waiting()}"
            )
        if self.observer is not None:
            self.observer.take(tag, sources)
        index, words = concatenate(messages)
        out = np.zeros(len(index), np.uint32)
        out[index] = words
        return out

    def run(self) -> None:
        """Runs until every core has halted or waits, then checks that no packet was lost.

        Raises:
            ExecutionError: An exception of the instruction set.
            NumericsError: NaN or infinity in an activation.
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            while self._ready:
                number = next(iter(self._ready))
                del self._ready[number]
                self._run_core(self.cores[number])
        self.traffic.check(sum((core.inbox.waiting() for core in self.cores.values()), self._host.waiting()))

    def statistics(self) -> dict[int, Counter[str]]:
        """Events of each core since the last reset."""
        return {number: core.events for number, core in self.cores.items()}

    def _run_core(self, core: Core) -> None:
        executed = 0
        while not core.halted and core.barrier is None:
            if core.pc >= len(core.code):
                raise core.error("ADDRESS: the program has no more instructions; it must end in halt or jump")
            if executed == PATIENCE:
                raise core.error(
                    f"LOOP: {PATIENCE} instructions without waiting for anything: an endless loop"
                )
            here = core.pc
            name, operands = core.code[here]
            if HANDLERS[name](core, *operands) is False:
                break
            if self.observer is not None:
                self.observer.executed(core, here)
            core.pc += 1
            executed += 1
        core.events["instructions"] += executed
        if core.barrier is not None:
            self._arrive(core, core.barrier)

    def _arrive(self, core: Core, group: int) -> None:
        members = self.program.barriers[group] if group < len(self.program.barriers) else ()
        if core.program.core not in members:
            raise core.error(f"RANGE: the core is not in barrier group {group}")
        arrived = self._at_barrier.setdefault(group, set())
        arrived.add(core.program.core)
        if arrived == set(members):
            arrived.clear()
            for number in members:
                self.cores[number].barrier = None
                self._ready[number] = None

    def _counted(self, core: Core, counts: NDArray, theta: NDArray) -> None:
        if self.watch is not None:
            self.watch(core.program.core, core.pc, counts, theta)

    def _post(self, core: Core, route: Route, message: Message) -> None:
        count(self.traffic.sent, message)
        self._deliver(core.program.core, route, message)

    def _deliver(self, sender: int, route: Route, message: Message) -> None:
        count(self.traffic.fanned_out, message, len(route.targets))
        for target in route.targets:
            if target == HOST:
                self._host.put(route.tag, sender, message)
            elif target in self.cores:
                self.cores[target].inbox.put(route.tag, sender, message)
                self._ready[target] = None
            else:
                raise ExecutionError(
                    sender, None, f"ROUTE: tag {route.tag} goes to core {target}, which has no program"
                )

    def _waiting(self) -> str:
        stuck = [core for core in self.cores.values() if not core.halted]
        shown = "; ".join(
            f"core {core.program.core} at instruction {core.pc} ({core.code[core.pc][0]})"
            for core in stuck[:5]
        )
        return f"{len(stuck)} cores wait: {shown}" if stuck else "all cores have halted"
