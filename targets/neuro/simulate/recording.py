"""What every core did while a program ran, in order: the input of the timing simulator.

The functional simulator executes the binary; a :class:`Recorder` that watches it writes down, for each core,
its sequence of *actions*: stretches of work between messages, messages sent, messages taken. Only numbers
that do not depend on the machine description are kept, so that one recording can be replayed on many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from sdc.targets.neuro.isa.fields import Length, Operand
from sdc.targets.neuro.isa.program import HOST, CoreProgram, Program
from sdc.targets.neuro.isa.table import BY_NAME
from sdc.targets.neuro.simulate.core import Core
from sdc.targets.neuro.simulate.network import Traffic

__all__ = ["Action", "Recorder", "Recording", "Work"]

Kind = Literal["work", "send", "sendw", "accum", "recvw", "barrier"]
_MESSAGES: Final = ("send", "sendw", "accum", "recvw", "barrier")


class _Unit(NamedTuple):
    """What one element of an instruction's vector costs.

    Attributes:
        ops: Float operations (the accounting of :mod:`sdc.targets.neuro.mapping.llama`).
        updates: Neuron updates: an encoded channel, or an accumulator read out.
        moves: Elements that pass the vector unit without arithmetic.
        words: Words of core memory read and written.
    """

    ops: float = 0.0
    updates: int = 0
    moves: int = 0
    words: int = 0


_MOVE, _BINARY, _SCALAR = _Unit(moves=1, words=2), _Unit(ops=1, words=3), _Unit(ops=1, words=2)
_UNITS: Final[Mapping[str, _Unit]] = {
    "fill": _Unit(moves=1, words=1),
    **dict.fromkeys(("copy", "ldw", "gather", "kvrow", "kvcol"), _MOVE),
    **dict.fromkeys(("send", "sendw", "recvw"), _Unit(moves=1, words=1)),
    "theta": _Unit(ops=2, words=1),  # magnitude, maximum
    "mute": _Unit(ops=2, words=2),
    "count": _Unit(ops=2, updates=1, words=2),  # division, rounding
    "had": _Unit(words=2),  # and one addition per level of the butterfly, see _ops
    **dict.fromkeys(("vadd", "vsub", "vmul", "vdiv", "vaddi"), _BINARY),
    **dict.fromkeys(("vadds", "vsubs", "vmuls", "vdivs", "vsqrt", "vcvt"), _SCALAR),
    "vexp": _Unit(ops=3, words=2),
    "vtanh": _Unit(ops=3, words=2),
    "vsilu": _Unit(ops=4, words=2),
    **dict.fromkeys(("vsum", "vmax"), _Unit(ops=1, words=1)),
    "rms": _Unit(ops=4, words=3),
    "rot": _Unit(ops=3, words=2),
    "readout": _Unit(ops=2, updates=1, words=4),
}


class Work(NamedTuple):
    """Events of one action.

    Attributes:
        instructions: Instructions issued.
        ops, updates, moves, words: Sums over the elements of their vectors.
        synops: Weights added.
        spikes: Spikes that fetched a row of weights.
        bits: Bits of these weights; 0 without spikes.
        external: Bytes read from external memory.
    """

    instructions: int = 0
    ops: float = 0.0
    updates: int = 0
    moves: int = 0
    words: int = 0
    synops: int = 0
    spikes: int = 0
    bits: int = 0
    external: int = 0


class Action(NamedTuple):
    """One step of a core.

    Attributes:
        op: Index into :attr:`Recording.ops`.
        token: The token in work, from 0.
        port: Route number of a message sent, tag of one taken, group of a barrier.
        packets: Packets sent, marker not included.
        sources: Senders whose messages are taken; of a message from the host, the core that gets it.
    """

    kind: Kind
    op: int
    token: int
    work: Work
    port: int = 0
    packets: int = 0
    sources: int = 0


@dataclass(frozen=True)
class Recording:
    """A run of a program.

    Attributes:
        ops: Names of operations, as the program's notes give them.
        actions: Of each core in order; :data:`sdc.targets.neuro.isa.program.HOST` is the outside.
        traffic: Packets that the functional simulator counted.
    """

    program: Program
    ops: tuple[str, ...]
    actions: Mapping[int, list[Action]]
    traffic: Traffic

    @property
    def tokens(self) -> int:
        """Tokens that the host sent."""
        return 1 + max((action.token for action in self.actions[HOST]), default=-1)


class _Step(NamedTuple):
    """What is known of an instruction before it runs."""

    name: str
    op: int
    unit: _Unit
    length: Length | None
    elements: int
    external: int


@dataclass
class Recorder:
    """Watches a functional simulator; set it as its ``observer`` before anything has run."""

    program: Program
    ops: dict[str, int] = field(default_factory=dict)
    actions: dict[int, list[Action]] = field(default_factory=lambda: {HOST: []})

    def __post_init__(self) -> None:
        self._plans = {core.core: self._plan(core) for core in self.program.cores}
        self._open: dict[int, tuple[int, int, Work]] = {}
        self._seen: dict[int, tuple[int, int, int]] = {}
        self._token = 0
        self.actions.update({core.core: [] for core in self.program.cores})

    def executed(self, core: Core, pc: int) -> None:
        """Called after every instruction."""
        number = core.program.core
        step = self._plans[number][pc]
        count = core.length(step.length) if step.length is not None else step.elements
        work, sent = self._events(core, step, count)
        if step.name in _MESSAGES:
            self._close(number)
            packets = sent if step.name == "send" else count
            self.actions[number].append(_message(step, core, pc, work, packets))
            return
        op, token, total = self._open.get(number, (step.op, core.pos, Work()))
        if (op, token) != (step.op, core.pos):
            self._close(number)
            op, token, total = step.op, core.pos, Work()
        self._open[number] = (op, token, _sum(total, work))

    def put(self, core: int, tag: int, packets: int) -> None:
        """The host sent a message to a core; the route is known by (core, tag)."""
        host = self.actions[HOST]
        self._token += bool(host) and host[-1].kind == "recvw"
        host.append(Action("sendw", 0, self._token, Work(), tag, packets, core))

    def take(self, tag: int, sources: int) -> None:
        """The host took a message."""
        self.actions[HOST].append(Action("recvw", 0, self._token, Work(), tag, 0, sources))

    def finish(self, traffic: Traffic) -> Recording:
        """The recording so far; what cores have prepared for a token that never came is left out."""
        for number in list(self._open):
            self._close(number)
        last = self._token
        actions = {number: [a for a in done if a.token <= last] for number, done in self.actions.items()}
        return Recording(self.program, tuple(self.ops), actions, traffic)

    def _close(self, number: int) -> None:
        if number in self._open:
            op, token, work = self._open.pop(number)
            self.actions[number].append(Action("work", op, token, work))

    def _plan(self, core: CoreProgram) -> list[_Step]:
        name, steps = core.name, []
        for pc, instruction in enumerate(core.code):
            name = core.notes.get(pc, name)
            op = self.ops.setdefault(_op_name(name), len(self.ops))
            steps.append(_step(instruction.name, instruction.operands, op))
        return steps

    def _events(self, core: Core, step: _Step, count: int) -> tuple[Work, int]:
        """The instruction's events, and the spikes that it sent."""
        unit, bits = step.unit, 0
        synops, spikes, sent = (core.events[name] for name in ("synops", "spikes", "sent"))
        before = self._seen.get(core.program.core, (0, 0, 0))
        self._seen[core.program.core] = (synops, spikes, sent)
        synops, spikes = synops - before[0], spikes - before[1]
        if synops:
            slot = core.program.code[core.pc].operands[1]
            bits = core.slot(int(slot)).bits  # type: ignore[arg-type]
        work = Work(
            1,
            unit.ops * count,
            unit.updates * count,
            unit.moves * count,
            unit.words * count,
            synops,
            spikes,
            bits,
            step.external,
        )
        return work, sent - before[2]


def _message(step: _Step, core: Core, pc: int, work: Work, packets: int) -> Action:
    operands = dict(zip((f.name for f in BY_NAME[step.name].fields), core.code[pc][1], strict=True))
    port = operands.get("route", operands.get("tag", operands.get("group", 0)))
    sends = step.name in ("send", "sendw")
    sources = operands.get("sources", 0)
    kind: Kind = step.name  # type: ignore[assignment]
    return Action(kind, step.op, core.pos, work, port, packets if sends else 0, sources)


def _sum(a: Work, b: Work) -> Work:
    return Work._make(x + y for x, y in zip(a, b, strict=True))


def _step(name: str, operands: tuple[Operand, ...], op: int) -> _Step:
    given = dict(zip((f.name for f in BY_NAME[name].fields), operands, strict=True))
    unit, length = _UNITS.get(name, _Unit()), given.get("len")
    elements = external = 0
    if name == "rot":
        elements = int(given["heads"]) * int(given["dim"])  # type: ignore[arg-type]
    elif name == "kvword":
        elements, unit = 1, _MOVE
    elif name in ("stream", "fetch"):
        external = int(given["bytes"])  # type: ignore[arg-type]
        elements, unit = -(-external // 4), _Unit(moves=1, words=1)
    elif name == "had":
        unit = unit._replace(ops=float(given["log2block"]))  # type: ignore[arg-type]
    return _Step(name, op, unit, length if isinstance(length, Length) else None, elements, external)


def _op_name(note: str) -> str:
    """``layers.3.mlp.down`` out of ``layers.3.mlp.down rows 0..63, channels 0..127``."""
    last = note.splitlines()[-1] if note else "core"
    for end in (":", " rows ", " kv head "):
        last = last.partition(end)[0]
    return last
