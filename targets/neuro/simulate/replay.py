"""The timing simulator of binaries: replays a recorded run on a machine, event by event.

Every core works off its recorded actions in order. Work takes the cycles of :mod:`replay_costs`. A message
leaves when its sender's port is free, every receiver has room in its spike buffer, and the links of its
multicast tree are free; it occupies each of them for its packets and arrives after the slowest, each receiver
by its own distance. Taking a message waits until all senders' messages have arrived whole, then takes the
cycles of its spikes or words. A message that a core is waiting for may always leave: it is drained as it
comes. What a message waited for is recorded apart for buffers and for links.

Packets are those that the functional simulator sent, not expected numbers, and every one is delivered:
:func:`replay` checks its books against those of the functional simulator.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.isa.errors import ExecutionError
from sdc.targets.neuro.isa.program import HOST
from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.simulate.recording import Action, Recording
from sdc.targets.neuro.simulate.replay_costs import cycles
from sdc.targets.neuro.simulate.replay_network import Network, Tree

__all__ = ["MessageLog", "Replay", "Span", "replay"]

Floats = NDArray[np.float64]
OUTPUT_COPIES: Final = 2
"""Messages that a core may have prepared and not yet sent: both halves of its output buffer."""


@dataclass(frozen=True)
class Span:
    """One action of one core, in nanoseconds; ``ready`` is when the core had come to it."""

    core: int
    action: Action
    ready: float
    begin: float
    end: float


@dataclass(frozen=True)
class MessageLog:
    """One message.

    Attributes:
        packets: Marker included.
        asked: When the sender had prepared it.
        left, arrived: When its first packet left, and its last one arrived at the farthest receiver.
        buffer_stall: Time until all receivers had room and the sender's earlier messages had left.
        link_stall: Time until the links were free.
    """

    tree: Tree
    op: int
    token: int
    kind: str
    packets: int
    asked: float
    left: float
    arrived: float
    buffer_stall: float
    link_stall: float


@dataclass(frozen=True)
class Replay:
    """What happened when, on one machine.

    Attributes:
        spans: All actions of all cores, in the order of their beginnings.
        messages: In the order of leaving.
        link_busy: [4, height, width] nanoseconds that each link (east, west, north, south) was occupied.
        link_packets: [4, height, width] packets over each link.
        token_ends: [tokens] when the host had taken each token's outputs.
        bound_ns: No timing of this program on these cores can be shorter: the longest chain of dependent
            actions without any contention, or the busiest core, link or external memory.
    """

    machine: Machine
    recording: Recording
    spans: tuple[Span, ...]
    messages: tuple[MessageLog, ...]
    link_busy: Floats
    link_packets: Floats
    token_ends: Floats
    bound_ns: float

    @property
    def makespan_ns(self) -> float:
        """When the last token's outputs were out."""
        return float(self.token_ends.max(initial=0.0))

    def core_busy(self) -> dict[int, float]:
        """Nanoseconds that each core worked."""
        busy: dict[int, float] = {}
        for span in self.spans:
            busy[span.core] = busy.get(span.core, 0.0) + span.end - span.begin
        return busy


def replay(recording: Recording, machine: Machine) -> Replay:
    """Times a recorded run.

    Raises:
        ExecutionError: The cores wait for each other: buffers are too small for the program; or packets are
            not those of the functional simulator (a defect).
        TargetError: A core of the program is not on the machine.
    """
    network = Network.of(recording, machine)
    free = _Simulation(recording, machine, network, contention=False)
    free.run()
    run = _Simulation(recording, machine, network, contention=True)
    run.run()
    _check(recording, run)
    result = run.result(0.0)
    busiest = max(result.core_busy().values(), default=0.0)
    memory = max(run.memory_busy.values(), default=0.0)
    bound = max(free.result(0.0).makespan_ns, busiest, float(result.link_busy.max(initial=0.0)), memory)
    return run.result(bound)


def _check(recording: Recording, run: _Simulation) -> None:
    """Packets against the functional simulator's books."""
    books = recording.traffic
    sent = {kind: books.sent[kind] for kind in ("spike", "word", "marker")}
    delivered = {kind: books.delivered[kind] for kind in sent}
    if run.sent != sent or run.delivered != delivered:
        raise ExecutionError(
            None,
            None,
            f"replayed packets {run.sent}, delivered {run.delivered}; the program sent {sent}, delivered "
            f"{delivered}; this is a defect of the simulator",
        )


@dataclass
class _Core:
    """A core at work."""

    number: int
    actions: list[Action]
    next: int = 0
    busy: bool = False
    ready: float = 0.0
    out: deque[tuple[Action, float]] = field(default_factory=deque)
    leaving: int = 0
    inbox: dict[int, dict[int, deque[int]]] = field(default_factory=dict)  # tag -> sender -> packets
    under_way: dict[tuple[int, int], int] = field(default_factory=dict)  # (tag, sender) -> messages
    stored: int = 0
    waited_by: dict[int, None] = field(default_factory=dict)

    @property
    def action(self) -> Action | None:
        """What comes next."""
        return self.actions[self.next] if self.next < len(self.actions) else None

    def complete(self, action: Action) -> bool:
        """Whether all messages that an action takes are there."""
        queues = self.inbox.get(action.port, {})
        return len(queues) >= action.sources and all(queues.values())

    def expects(self, tag: int, sender: int) -> bool:
        """Whether the core waits for the next message of a sender, of which nothing is there or coming."""
        action = self.action
        waits = not self.busy and action is not None and action.kind in ("accum", "recvw")
        if not waits or action is None or action.port != tag:
            return False
        return not self.inbox.get(tag, {}).get(sender) and not self.under_way.get((tag, sender))


class _Simulation:
    def __init__(self, recording: Recording, machine: Machine, network: Network, contention: bool) -> None:
        self.recording, self.machine, self.network = recording, machine, network
        self.contention = contention
        self.cycle = 1e3 / machine.core.clock_mhz
        self.capacity = machine.core.spike_buffer_packets
        self.cores = {number: _Core(number, actions) for number, actions in recording.actions.items()}
        self.link_free = np.zeros(network.links)
        self.link_busy = np.zeros(network.links)
        self.link_packets = np.zeros(network.links)
        self.port_free: dict[int, float] = {}
        self.memory_free: dict[int, float] = {}
        self.memory_busy: dict[int, float] = {}
        self.queue: list[tuple[float, int, str, int, object]] = []
        self.number = 0
        self.spans: list[Span] = []
        self.messages: list[MessageLog] = []
        self.sent = dict.fromkeys(("spike", "word", "marker"), 0)
        self.delivered = dict(self.sent)
        self.at_barrier: dict[int, set[int]] = {}
        self.ends = np.zeros(max(1, recording.tokens))

    def run(self) -> None:
        """All events in order of time; equal times in the order of their making."""
        for core in self.cores.values():
            self._try(core, 0.0)
        while self.queue:
            now, _, kind, number, detail = heapq.heappop(self.queue)
            getattr(self, f"_on_{kind}")(self.cores[number], now, detail)
        stuck = [core for core in self.cores.values() if core.action is not None]
        if stuck:
            raise ExecutionError(None, None, self._deadlock(stuck))

    def result(self, bound: float) -> Replay:
        """What happened."""
        shape = (4, self.network.grid.height, self.network.grid.width)
        return Replay(
            self.machine,
            self.recording,
            tuple(sorted(self.spans, key=lambda s: (s.begin, s.core))),
            tuple(self.messages),
            self.link_busy.reshape(shape),
            self.link_packets.reshape(shape),
            self.ends,
            bound,
        )

    def _deadlock(self, stuck: list[_Core]) -> str:
        shown = ", ".join(
            f"{self.network.grid.label(c.number)} at {c.action.kind} of {self.recording.ops[c.action.op]}"
            for c in stuck[:5]
            if c.action is not None
        )
        return (
            f"DEADLOCK: {len(stuck)} cores wait for each other ({shown}); a spike buffer of {self.capacity} "
            "packets is too small for this program: use smaller groups, fewer levels or the bitwise coding"
        )

    def _push(self, time: float, kind: str, core: int, detail: object = None) -> None:
        self.number += 1
        heapq.heappush(self.queue, (time, self.number, kind, core, detail))

    def _try(self, core: _Core, now: float) -> None:
        """Begins the core's next action if it can begin."""
        action = core.action
        if core.busy or action is None:
            return
        if action.kind in ("accum", "recvw") and not core.complete(action):
            self._release(core, now)
            return
        if action.kind in ("send", "sendw") and core.leaving >= OUTPUT_COPIES and self.contention:
            return
        if action.kind == "barrier" and not self._gather(core, action, now):
            return
        core.busy = True
        duration = 0.0 if core.number == HOST else cycles(action, self.machine) * self.cycle
        duration += self._external(core.number, action.work.external, now)
        self._push(now + duration, "done", core.number, now)

    def _external(self, core: int, size: int, now: float) -> float:
        """Time until bytes of the memory beside the chip are there: its cores wait for each other."""
        latency, transfer = self.network.external_ns(size)
        if not transfer:
            return 0.0
        chip = self.network.chip(core)
        begin = max(now, self.memory_free.get(chip, 0.0)) if self.contention else now
        self.memory_free[chip] = begin + transfer
        self.memory_busy[chip] = self.memory_busy.get(chip, 0.0) + transfer
        return begin - now + latency + transfer

    def _on_done(self, core: _Core, now: float, began: object) -> None:
        action = core.actions[core.next]
        assert isinstance(began, float)
        if core.number != HOST:
            self.spans.append(Span(core.number, action, core.ready, began, now))
        core.next += 1
        core.busy, core.ready = False, now
        if action.kind in ("accum", "recvw"):
            self._taken(core, action, now)
        elif action.kind in ("send", "sendw"):
            self._post(core, action, now)
        self._try(core, now)

    def _taken(self, core: _Core, action: Action, now: float) -> None:
        queues = core.inbox[action.port]
        core.stored -= sum(queue.popleft() for queue in queues.values())
        if core.number == HOST:
            self.ends[action.token] = max(self.ends[action.token], now)
        self._release(core, now)

    def _release(self, core: _Core, now: float) -> None:
        """Lets those try again that found no room at this core."""
        waiting, core.waited_by = core.waited_by, {}
        for sender in waiting:
            self._depart(self.cores[sender], now)

    def _post(self, core: _Core, action: Action, now: float) -> None:
        core.out.append((action, now))
        core.leaving += 1
        self._depart(core, now)

    def _depart(self, core: _Core, now: float) -> None:
        """Sends the core's prepared messages as long as their receivers have room."""
        while core.out:
            action, asked = core.out[0]
            tree = self.network.tree(core.number, action)
            if self.contention and not self._room(core, tree, action.packets + 1):
                return
            core.out.popleft()
            self._leave(core, tree, action, asked, now)

    def _room(self, core: _Core, tree: Tree, packets: int) -> bool:
        for target in tree.targets:
            receiver = self.cores[target]
            fits = target == HOST or receiver.stored + packets <= self.capacity
            if not fits and not receiver.expects(tree.tag, core.number):
                receiver.waited_by[core.number] = None
                return False
        return True

    def _leave(self, core: _Core, tree: Tree, action: Action, asked: float, now: float) -> None:
        packets = action.packets + 1
        left, serial = now, 0.0
        if core.number != HOST and tree.moves:
            serial = packets * self.network.port_time_ns
            if self.contention:
                left = max(now, self.port_free.get(core.number, 0.0))
            if len(tree.links):
                busy = packets * self.network.link_time[tree.links]
                if self.contention:
                    left = max(left, float(self.link_free[tree.links].max()))
                    self.link_free[tree.links] = left + busy
                self.link_busy[tree.links] += busy
                self.link_packets[tree.links] += packets
                serial = max(serial, float(busy.max()))
            self.port_free[core.number] = left + serial
        self._count(tree, action)
        farthest = 0.0
        for target, head in zip(tree.targets, tree.head_ns, strict=True):
            receiver = self.cores[target]
            receiver.stored += packets
            key = (tree.tag, core.number)
            receiver.under_way[key] = receiver.under_way.get(key, 0) + 1
            farthest = max(farthest, head)
            self._push(left + serial + head, "arrived", target, (tree.tag, core.number, packets))
        arrived = left + serial + farthest
        kind = "spike" if action.kind == "send" else "word"
        self.messages.append(
            MessageLog(
                tree, action.op, action.token, kind, packets, asked, left, arrived, now - asked, left - now
            )
        )
        self._push(left + serial, "departed", core.number)

    def _count(self, tree: Tree, action: Action) -> None:
        kind = "spike" if action.kind == "send" else "word"
        for books, times in ((self.sent, 1), (self.delivered, len(tree.targets))):
            books[kind] += times * action.packets
            books["marker"] += times

    def _on_departed(self, core: _Core, now: float, _: object) -> None:
        core.leaving -= 1
        self._try(core, now)

    def _on_arrived(self, core: _Core, now: float, message: object) -> None:
        tag, sender, packets = cast(tuple[int, int, int], message)
        core.inbox.setdefault(tag, {}).setdefault(sender, deque()).append(packets)
        core.under_way[tag, sender] -= 1
        self._try(core, now)

    def _gather(self, core: _Core, action: Action, now: float) -> bool:
        """Whether all members of a barrier are there; wakes the others."""
        members = set(self.recording.program.barriers[action.port])
        arrived = self.at_barrier.setdefault(action.port, set())
        arrived.add(core.number)
        if arrived != members:
            return False
        self.at_barrier[action.port] = set()
        for number in sorted(members - {core.number}):
            other = self.cores[number]
            other.busy = True
            self._push(now + self.machine.network.barrier_latency_ns, "done", number, now)
        core.busy = True
        self._push(now + self.machine.network.barrier_latency_ns, "done", core.number, now)
        return False
