"""One core's program, walked through for one token without any data: what it touches, sends and takes.

Control flow of a core program depends on no data, so the walk is exact: hardware loops run their counts, base
registers have their values. Lengths ``keys(N)`` count as N, the most they can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sdc.targets.neuro.isa.fields import Length, Ref
from sdc.targets.neuro.isa.program import CoreProgram, Route
from sdc.targets.neuro.isa.table import BY_NAME

__all__ = ["Event", "Fault", "Limits", "Walk"]

MAX_LOOPS: Final = 8
NOTHING: Final = Length(0)
PATIENCE: Final = 1_000_000  # instructions of one turn

# Operand -> what it spans. ``groups``: thresholds; ``len4``: words in bytes; ``table``, ``rows``, ``cols``,
# ``tokens``: see _span.
_A_B_LEN = {"dst": "len", "a": "len", "b": "len"}
_A_B_ONE = {"dst": "len", "a": "len", "b": "one"}
_SRC_LEN = {"dst": "len", "src": "len"}
_SPANS: Final[Mapping[str, Mapping[str, str]]] = {
    "pos": {"dst": "one"},
    "fill": {"dst": "len"},
    "ldw": {"dst": "len", "from": "len4"},
    "gather": {"dst": "len", "table": "table", "row": "one"},
    "stream": {"to": "bytes"},
    "fetch": {"to": "bytes", "row": "one"},
    "theta": {"dst": "groups", "src": "len"},
    "mute": {"x": "len", "theta": "groups"},
    "count": {"dst": "len", "src": "len", "theta": "groups"},
    "had": {"x": "len", "signs": "len"},
    "send": {"counts": "len"},
    "sendw": {"src": "len"},
    "recvw": {"dst": "len"},
    "readout": {"y": "len", "acc": "len", "theta": "one", "scale": "len"},
    "kvrow": {"cache": "rows", "counts": "len"},
    "kvcol": {"cache": "cols", "counts": "len"},
    "kvword": {"cache": "tokens", "src": "one"},
    "rms": {"dst": "len", "src": "len", "gain": "len"},
    "rot": {"x": "heads", "cos": "half", "sin": "half"},
    "vsum": {"dst": "one", "src": "len"},
    "vmax": {"dst": "one", "src": "len"},
    **dict.fromkeys(("copy", "vexp", "vsilu", "vtanh", "vsqrt", "vcvt"), _SRC_LEN),
    **dict.fromkeys(("vadd", "vsub", "vmul", "vdiv", "vaddi"), _A_B_LEN),
    **dict.fromkeys(("vadds", "vsubs", "vmuls", "vdivs"), _A_B_ONE),
}


@dataclass(frozen=True)
class Limits:
    """What the walk holds a core against.

    Attributes:
        external: Bytes of external memory that hold something.
        tokens: Tokens of the longest text.
        weight_bits: Widths of weights that the machine's cores read.
    """

    external: int
    tokens: int
    weight_bits: tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """A broken rule at an instruction."""

    kind: str
    pc: int
    message: str


@dataclass(frozen=True)
class Event:
    """A message sent or taken, or a barrier.

    Attributes:
        port: Tag of a message; group of a barrier.
        targets: Receivers of a message sent.
        sources: Senders of a message taken.
        first, length: Indices that the packets may have.
        train: (coding, step, steps) of spikes.
        slot: Synapses that spikes taken meet: (rows, stride, outputs, group, bits, accumulators).
    """

    pc: int
    what: Literal["sent", "taken", "barrier"]
    port: int
    kind: Literal["spike", "word"] = "word"
    targets: tuple[int, ...] = ()
    sources: int = 0
    first: int = 0
    length: Length = NOTHING
    train: tuple[str, int, int] | None = None
    slot: tuple[int, int, Length, int, int, int] | None = None


@dataclass
class Walk:
    """Walks a core; afterwards ``faults`` and ``events`` tell what was found."""

    core: CoreProgram
    limits: Limits
    faults: list[Fault] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bases = [0] * 8
        self.loops: list[tuple[int, int, int]] = []  # start, count, iteration
        self.slots: dict[int, tuple[int, int, Length, int, int, int]] = {}
        self.entered: dict[int, list[int]] = {}  # bases at each instruction when it was first met
        self.checked: set[tuple[int, ...]] = set()
        self.pc = 0
        self.before: list[int] | None = None  # bases at the end of the first turn, in the second

    def run(self) -> None:
        """Walks until the program halts or begins the next token.

        Where base registers are not what they were, the second token is walked too: it must leave them as it
        found them, so that all others are like it.
        """
        for _ in range(PATIENCE):
            if self.pc >= len(self.core.code):
                self.fault(
                    "runs-off-end", "the program has no more instructions; it must end in halt or jump"
                )
                return
            name = self.core.code[self.pc].name
            self.entered.setdefault(self.pc, list(self.bases))
            if name in ("halt", "jump"):
                if self.leave(name):
                    return
                continue
            if not self.step(name):
                return
        self.fault("endless", f"more than {PATIENCE} instructions for one token")

    def fault(self, kind: str, message: str) -> None:
        """Notes a fault at the present instruction, once."""
        fault = Fault(kind, min(self.pc, max(0, len(self.core.code) - 1)), message)
        if fault not in self.faults:
            self.faults.append(fault)

    def leave(self, name: str) -> bool:
        """The end of a turn; False where another one must be walked."""
        if self.loops:
            self.fault("loop-open", f"{len(self.loops)} loops are not closed by endl")
        if name == "halt":
            return True
        target = int(str(self.core.code[self.pc].operands[0]))
        if target > self.pc or target not in self.entered:
            self.fault("jump-outside", f"jumps to {target}; only jumps back to the token's begin are known")
        elif self.before is None and self.entered[target] != self.bases and not self.faults:
            self.before, self.pc = list(self.bases), target
            return False
        elif self.before is not None and self.before != self.bases:
            text = f"bases are {self.bases}, a token earlier {self.before}"
            self.fault("drifting-base", text)
        return True

    def step(self, name: str) -> bool:
        """One instruction; False where the walk cannot go on."""
        spec = BY_NAME[name]
        given: dict[str, Any] = {
            f.name: v for f, v in zip(spec.fields, self.core.code[self.pc].operands, strict=True)
        }
        key = (self.pc, *(self.bases[v.base] for v in given.values() if isinstance(v, Ref)))
        if key not in self.checked:
            self.checked.add(key)
            self.check(name, given)
        if name in ("loop", "endl"):
            return self.loop(name, given)
        if name in ("base", "adv"):
            self.base(name, given)
        elif name == "slot":
            place = given["rows"].address + self.bases[given["rows"].base]
            acc = given["acc"].address + self.bases[given["acc"].base]
            bits = int(given["bits"])
            self.slots[given["slot"]] = (place, given["stride"], given["outputs"], given["group"], bits, acc)
        elif name in ("send", "sendw", "accum", "recvw", "barrier"):
            self.message(name, given)
        self.pc += 1
        return True

    def loop(self, name: str, given: Mapping[str, Any]) -> bool:
        if name == "loop":
            if given["count"] == 0 or len(self.loops) == MAX_LOOPS:
                self.fault("bad-loop", f"{given['count']} iterations at level {len(self.loops) + 1}")
                return False
            self.loops.append((self.pc + 1, given["count"], 0))
            self.pc += 1
            return True
        if not self.loops:
            self.fault("endl-without-loop", "closes no loop")
            return False
        start, count, iteration = self.loops.pop()
        self.pc += 1
        if iteration + 1 < count:
            self.loops.append((start, count, iteration + 1))
            self.pc = start
        return True

    def base(self, name: str, given: Mapping[str, Any]) -> None:
        if given["reg"] == 0:
            self.fault("writes-b0", "register 0 is always zero")
            return
        before = self.bases[given["reg"]] if name == "adv" else 0
        self.bases[given["reg"]] = before + given["value"]

    def check(self, name: str, given: Mapping[str, Any]) -> None:
        """Operands that must lie within memories, and numbers that must suit each other."""
        for operand, what in _SPANS.get(name, {}).items():
            self.check_region(operand, given[operand], self.span(what, given))
        if name in ("theta", "mute", "count", "had"):
            size = given.get("group", 1 << given.get("log2block", 0))
            if size and (given["len"].value % size or given["len"].keys):
                self.fault("uneven-groups", f"groups of {size} do not divide {given['len'].value} channels")
        if name in ("stream", "fetch") and given["from"] + given["bytes"] > self.limits.external:
            end = given["from"] + given["bytes"]
            self.fault(
                "external-outside", f"reads external memory up to {end:#x}, of {self.limits.external:#x}"
            )
        if name == "kvcol" and self.limits.tokens > given["stride"]:
            self.fault("cache-too-short", f"{self.limits.tokens} tokens in rows of {given['stride']}")
        if name == "rot" and 2 * given["half"] > given["dim"]:
            self.fault("bad-rotation", f"{given['half']} pairs in a head of {given['dim']}")
        if name == "slot":
            self.check_slot(given)

    def check_slot(self, given: Mapping[str, Any]) -> None:
        if int(given["bits"]) not in self.limits.weight_bits:
            self.fault(
                "no-such-weight", f"weights of {given['bits']} bits; cores read {self.limits.weight_bits}"
            )
        if given["group"] == 0:
            self.fault("uneven-groups", "a group of synapses has at least one channel")

    def check_region(self, operand: str, ref: Ref, count: int) -> None:
        in_n = any(f.name == operand and f.kind == "n" for f in self.spec.fields)
        size = self.core.neuron_words if in_n else self.core.synapse_bytes
        start = ref.address + self.bases[ref.base]
        if start < 0 or start + count > size:
            where, unit = ("n", "words") if in_n else ("s", "bytes")
            self.fault(
                "address-outside",
                f"{operand} spans {where}[{start:#x}:{start + count:#x}] of {size:#x} {unit}",
            )

    @property
    def spec(self) -> Any:
        """The present instruction's entry in the table."""
        return BY_NAME[self.core.code[self.pc].name]

    def span(self, what: str, given: Mapping[str, Any]) -> int:
        """Words or bytes that an operand spans."""
        length = given["len"].value if "len" in given else 0
        if what == "groups":
            return -(-length // given["group"]) if given["group"] else 1
        number = {name: int(value) for name, value in given.items() if isinstance(value, int)}
        stride, half = number.get("stride", 0), number.get("half", 0)
        sizes = {
            "one": 1,
            "len": length,
            "len4": 4 * length,
            "table": 4 * length * number.get("rows", 0),
            "bytes": number.get("bytes", 0),
            "rows": (self.limits.tokens - 1) * stride + length,
            "cols": length * stride,
            "tokens": 4 * self.limits.tokens,
            "heads": number.get("heads", 0) * number.get("dim", 0),
            "half": half,
        }
        return sizes[what]

    def message(self, name: str, given: Mapping[str, Any]) -> None:
        """Remembers a message or a barrier of the first turn."""
        if self.before is not None:
            return
        if name == "barrier":
            self.events.append(Event(self.pc, "barrier", given["group"]))
            return
        train = None
        if name in ("send", "accum"):
            if not self.loops:
                self.fault("step-outside-loop", "a time step needs a loop around it")
                return
            train = (given["coding"], self.loops[-1][2], self.loops[-1][1])
        kind: Literal["spike", "word"] = "word" if train is None else "spike"
        if name in ("send", "sendw"):
            for route in self.route(given["route"]):
                self.events.append(
                    Event(
                        self.pc,
                        "sent",
                        route.tag,
                        kind,
                        route.targets,
                        0,
                        given["index"],
                        given["len"],
                        train,
                    )
                )
            return
        slot = None
        if name == "accum":
            slot = self.slots.get(given["slot"])
            if slot is None:
                self.fault("slot-undefined", f"synapse slot {given['slot']} is not set")
                return
        length = given.get("len", NOTHING)
        self.events.append(
            Event(self.pc, "taken", given["tag"], kind, (), given["sources"], 0, length, train, slot)
        )

    def route(self, number: int) -> Iterator[Route]:
        if number < len(self.core.routes):
            yield self.core.routes[number]
        else:
            self.fault("no-such-route", f"route {number}; the core has {len(self.core.routes)}")
