"""Messages between cores, and the books that show that none is lost or duplicated."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.isa.errors import ExecutionError

__all__ = ["Inbox", "Message", "Traffic"]

Kind = Literal["spike", "word"]


@dataclass(frozen=True)
class Message:
    """The packets that one ``send`` or ``sendw`` put onto a route, closed by a marker.

    Attributes:
        index: [packets] int64, axons or word offsets.
        value: [packets]; spikes: bool, True subtracts; words: uint32.
    """

    kind: Kind
    index: NDArray
    value: NDArray

    def __len__(self) -> int:
        return len(self.index)


@dataclass
class Traffic:
    """Packets by kind (``spike``, ``word``, ``marker``), over the whole machine.

    Attributes:
        sent: Packets put onto a route.
        fanned_out: The same, times the route's destinations.
        delivered: Packets that came into a queue.
        taken: Packets that an instruction (or the host) took out of a queue.
    """

    sent: Counter[str] = field(default_factory=Counter)
    fanned_out: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)

    def check(self, queued: Counter[str]) -> None:
        """Asserts conservation, given the packets that still wait in queues.

        Raises:
            ExecutionError: A packet was lost or duplicated.
        """
        for kind in ("spike", "word", "marker"):
            fanned, came, taken = self.fanned_out[kind], self.delivered[kind], self.taken[kind]
            if fanned != came or came != taken + queued[kind]:
                raise ExecutionError(
                    None,
                    None,
                    f"{kind} packets are not conserved: {fanned} fanned out, {came} delivered, {taken} "
                    f"taken, {queued[kind]} queued; this is a defect of the simulator",
                )


def count(books: Counter[str], message: Message, times: int = 1) -> None:
    """Adds a message's packets and its marker to one of the books."""
    books[message.kind] += times * len(message)
    books["marker"] += times


@dataclass
class Inbox:
    """A core's queues, one per tag and sender, each in the order of sending."""

    traffic: Traffic
    queues: dict[int, dict[int, deque[Message]]] = field(default_factory=dict)

    def put(self, tag: int, sender: int, message: Message) -> None:
        """Delivers a message."""
        self.queues.setdefault(tag, {}).setdefault(sender, deque()).append(message)
        count(self.traffic.delivered, message)

    def take(self, tag: int, sources: int) -> list[Message] | None:
        """The oldest message of each of ``sources`` senders, by ascending sender; None where one is missing.

        Raises:
            ValueError: More than ``sources`` cores have sent under the tag.
        """
        queues = self.queues.get(tag, {})
        if len(queues) > sources:
            raise ValueError(f"{len(queues)} cores send under tag {tag}, the instruction expects {sources}")
        if len(queues) < sources or not all(queues.values()):
            return None
        messages = [queues[sender].popleft() for sender in sorted(queues)]
        for message in messages:
            count(self.traffic.taken, message)
        return messages

    def waiting(self) -> Counter[str]:
        """Packets in the queues, by kind."""
        books: Counter[str] = Counter()
        for queues in self.queues.values():
            for queue in queues.values():
                for message in queue:
                    count(books, message)
        return books


def concatenate(messages: list[Message]) -> tuple[NDArray, NDArray]:
    """Indices and values of several messages."""
    if len(messages) == 1:
        return messages[0].index, messages[0].value
    index = np.concatenate([message.index for message in messages])
    return index, np.concatenate([message.value for message in messages])
