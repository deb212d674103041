"""Rules between cores: who sends what to whom, in which order, and that all of it is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sdc.targets.neuro.isa.fields import Length
from sdc.targets.neuro.isa.program import HOST, CoreProgram
from sdc.targets.neuro.verify.walk import Event, Fault

__all__ = ["check_barriers", "check_deadlock", "check_messages"]

Found = tuple[int, Fault]
"""A core's number, and what is wrong there."""
Events = Mapping[int, Sequence[Event]]


def check_messages(events: Events, programs: Mapping[int, CoreProgram]) -> Iterator[Found]:
    """Every message has receivers that take it, once per token, as what it is.

    Args:
        events: Of every core in its order; of :data:`HOST` what the outside sends and takes.
    """
    sent: dict[tuple[int, int], dict[int, list[Event]]] = {}
    taken: dict[tuple[int, int], list[Event]] = {}
    for core, own in events.items():
        for event in own:
            if event.what == "taken":
                taken.setdefault((core, event.port), []).append(event)
            for target in event.targets:
                if target not in events:
                    yield (
                        core,
                        Fault("no-such-receiver", event.pc, f"sends to core {target}, which has no program"),
                    )
                else:
                    sent.setdefault((target, event.port), {}).setdefault(core, []).append(event)
    for (core, tag), takes in taken.items():
        if (core, tag) not in sent:
            yield (
                core,
                Fault("no-sender", takes[0].pc, f"waits for messages under tag {tag}; nobody sends any"),
            )
    for (core, tag), senders in sent.items():
        takes = taken.get((core, tag), [])
        if not takes:
            sender, (first, *_) = next(iter(senders.items()))
            yield sender, Fault("nobody-listens", first.pc, f"core {core} takes nothing under tag {tag}")
        else:
            yield from _check_queue(core, tag, senders, takes, programs.get(core))


def _check_queue(
    core: int, tag: int, senders: Mapping[int, list[Event]], takes: list[Event], program: CoreProgram | None
) -> Iterator[Found]:
    """All messages of one tag at one core."""
    for take in takes:
        if take.sources != len(senders):
            who = ", ".join(map(str, sorted(senders)[:6]))
            message = (
                f"waits for markers of {take.sources} cores under tag {tag}, but {len(senders)} send: {who}"
            )
            yield (
                core,
                Fault(
                    "missing-barrier" if take.sources < len(senders) else "wrong-sources", take.pc, message
                ),
            )
            return
    for sender, messages in senders.items():
        if len(messages) != len(takes):
            text = f"core {sender} sends {len(messages)} messages under tag {tag}, {len(takes)} are taken"
            yield core, Fault("unequal-turns", takes[-1].pc, text)
            return
    for number, take in enumerate(takes):
        now = {sender: messages[number] for sender, messages in senders.items()}
        fault = next((f for f in (_unlike(take, event, s) for s, event in now.items()) if f), None)
        if fault is None and take.kind == "word":
            fault = _words(take, list(now.values()))
        elif fault is None and program is not None:
            fault = _axons(program, take, list(now.values()))
        if fault:
            yield core, fault
            return


def _unlike(take: Event, sent: Event, sender: int) -> Fault | None:
    """What a message is, against what its receiver takes it for."""
    if take.kind != sent.kind:
        return Fault(
            "wrong-kind", take.pc, f"takes {take.kind} packets, core {sender} sends {sent.kind} packets"
        )
    if take.train and sent.train and take.train != sent.train:
        ours, theirs = take.train, sent.train
        kind = "wrong-coding" if ours[0] != theirs[0] else "wrong-step"
        mine, other = (f"step {t[1]} of {t[2]}, {t[0]}" for t in (ours, theirs))
        return Fault(kind, take.pc, f"takes {mine}; core {sender} sends {other}")
    return None


def _words(take: Event, sent: Sequence[Event]) -> Fault | None:
    """The senders' words are those of the vector, each once."""
    if any(e.length.keys or take.length.keys for e in sent):
        same = len(sent) == 1 and sent[0].length == take.length and sent[0].first == 0
        return (
            None
            if same
            else Fault("wrong-length", take.pc, f"takes {_text(take.length)} words, not those sent")
        )
    end = 0
    for event in sorted(sent, key=lambda e: (e.first, e.length.value)):
        if event.first != end:
            what = "come twice" if event.first < end else "are missing"
            return Fault(
                "wrong-length", take.pc, f"words {min(end, event.first)}..{max(end, event.first) - 1} {what}"
            )
        end += event.length.value
    if end != take.length.value:
        return Fault("wrong-length", take.pc, f"takes {take.length.value} words, {end} are sent")
    return None


def _text(length: Length) -> str:
    return f"keys({length.value})" if length.keys else str(length.value)


def _axons(core: CoreProgram, take: Event, sent: Sequence[Event]) -> Fault | None:
    """The last axon's row of weights, and its accumulators, lie within the core's memories."""
    assert take.slot is not None
    axons = max(event.first + event.length.value for event in sent)
    rows, stride, outputs, group, bits, acc = take.slot
    if axons == 0 or group == 0:
        return None
    end = rows + (axons - 1) * stride + -(-outputs.value * bits // 8)
    if rows < 0 or end > core.synapse_bytes:
        text = f"the row of axon {axons - 1} ends at s[{end:#x}], of {core.synapse_bytes:#x} bytes"
        return Fault("row-outside", take.pc, text)
    end = acc + ((axons - 1) // group + 1) * outputs.value
    if acc < 0 or end > core.neuron_words:
        text = f"the accumulators of axon {axons - 1} end at n[{end:#x}], of {core.neuron_words:#x} words"
        return Fault("accumulator-outside", take.pc, text)
    return None


def check_barriers(events: Events, groups: Sequence[Sequence[int]]) -> Iterator[Found]:
    """Members of a barrier group, and only they, come to it equally often."""
    visits: dict[int, dict[int, list[Event]]] = {}
    for core, own in events.items():
        for event in own:
            if event.what == "barrier":
                visits.setdefault(event.port, {}).setdefault(core, []).append(event)
    for group, by_core in visits.items():
        members = set(groups[group]) if group < len(groups) else set()
        most = max(len(own) for own in by_core.values())
        for core, own in by_core.items():
            if core not in members:
                yield core, Fault("not-in-barrier", own[0].pc, f"the core is not in barrier group {group}")
        for core in sorted(members):
            times = len(by_core.get(core, ()))
            if times != most:
                text = f"comes to barrier group {group} {times} times for each token, others {most} times"
                yield core, Fault("missing-barrier", by_core[core][-1].pc if times else 0, text)


@dataclass
class _Progress:
    """How far a core has come."""

    events: Sequence[Event]
    next: int = 0
    inbox: dict[tuple[int, int], int] = field(default_factory=dict)  # (tag, sender) -> messages
    senders: dict[int, set[int]] = field(default_factory=dict)


def check_deadlock(events: Events) -> Iterator[Found]:
    """Plays one token: every core must come to its end."""
    cores = {number: _Progress(own) for number, own in events.items()}
    ready = deque(sorted(cores, key=lambda number: number != HOST))
    waiting = set(ready)
    while ready:
        number = ready.popleft()
        waiting.discard(number)
        for target in _advance(number, cores):
            if target not in waiting:
                waiting.add(target)
                ready.append(target)
    stuck = {number: core for number, core in cores.items() if core.next < len(core.events)}
    if stuck:
        number, core = min(stuck.items())
        event = core.events[core.next]
        text = f"{len(stuck)} cores wait for each other; this one for tag {event.port}"
        yield number, Fault("deadlock", event.pc, text)


def _advance(number: int, cores: dict[int, _Progress]) -> Iterator[int]:
    """Runs a core as far as it comes; yields the cores that got something."""
    core = cores[number]
    while core.next < len(core.events):
        event = core.events[core.next]
        if event.what == "taken" and not _take(core, event):
            return
        for target in event.targets:
            if target in cores:
                other = cores[target]
                key = (event.port, number)
                other.inbox[key] = other.inbox.get(key, 0) + 1
                other.senders.setdefault(event.port, set()).add(number)
                yield target
        core.next += 1


def _take(core: _Progress, event: Event) -> bool:
    senders = [s for s in core.senders.get(event.port, ()) if core.inbox.get((event.port, s))]
    if len(senders) < event.sources:
        return False
    for sender in senders:
        core.inbox[event.port, sender] -= 1
    return True
