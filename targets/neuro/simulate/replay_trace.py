"""A replayed run as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

Chips are processes, cores are threads. Two further processes show the network: messages by the core that
sends them, and the busiest links with the messages that occupy them. Format: see :mod:`timing_trace`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid
from sdc.targets.neuro.route.load import link_time_ns
from sdc.targets.neuro.simulate.replay import MessageLog, Replay
from sdc.targets.neuro.simulate.timing_trace import name_event, work_event, write_events

__all__ = ["replay_events", "write_replay"]

LINKS: Final = 64
_DIRECTIONS: Final = ("east", "west", "north", "south")


def replay_events(run: Replay, links: int = LINKS) -> list[dict[str, Any]]:
    """Events in a fixed order: names, work of the cores, messages, links.

    Args:
        links: How many links are shown, the busiest first.
    """
    grid = Grid.of(run.machine)
    cores = np.array([core.core for core in run.recording.program.cores], np.int64)
    chip = dict(zip(cores.tolist(), grid.chip(cores).tolist(), strict=True))
    messages = max(chip.values(), default=-1) + 1
    events = [name_event("process_name", c, 0, f"chip {c}") for c in sorted(set(chip.values()))]
    events.append(name_event("process_name", messages, 0, "messages"))
    events.append(name_event("process_name", messages + 1, 0, "links"))
    for core in run.recording.program.cores:
        label = grid.label(core.core)
        events.append(name_event("thread_name", chip[core.core], core.core, f"{label} {core.name}".strip()))
        events.append(name_event("thread_name", messages, core.core, f"from {label}"))
    events += _cores(run, chip)
    events += _messages(run, messages, grid)
    events += _links(run, messages + 1, grid, links)
    return events


def _cores(run: Replay, chip: dict[int, int]) -> Iterator[dict[str, Any]]:
    for span in run.spans:
        action, work = span.action, span.action.work
        args = {
            "token": action.token,
            "instructions": work.instructions,
            "synops": work.synops,
            "spikes": work.spikes,
            "waited_ns": round(span.begin - span.ready, 3),
        }
        name = f"{action.kind} {run.recording.ops[action.op]}"
        yield work_event(name, "core", chip[span.core], span.core, span.begin, span.end, args)


def _messages(run: Replay, process: int, grid: Grid) -> Iterator[dict[str, Any]]:
    for message in run.messages:
        if message.tree.source not in range(grid.cores):
            continue  # from the host
        args = {
            "token": message.token,
            "packets": message.packets,
            "targets": len(message.tree.targets),
            "hops": len(message.tree.links),
            "buffer_stall_ns": round(message.buffer_stall, 3),
            "link_stall_ns": round(message.link_stall, 3),
        }
        yield work_event(
            _message_name(run, message),
            "message",
            process,
            message.tree.source,
            message.left,
            message.arrived,
            args,
        )


def _message_name(run: Replay, message: MessageLog) -> str:
    return f"{message.kind}s of {run.recording.ops[message.op]}"


def _links(run: Replay, process: int, grid: Grid, count: int) -> Iterator[dict[str, Any]]:
    busy = run.link_busy.ravel()
    shown = np.argsort(-busy, kind="stable")[:count]
    thread = {int(link): i for i, link in enumerate(shown) if busy[link] > 0}
    for link, i in thread.items():
        yield name_event("thread_name", process, i, link_name(link, grid))
    time = link_time_ns(run.machine).ravel()
    for message in run.messages:
        for link in _shown(message.tree.links, thread):
            end = message.left + message.packets * float(time[link])
            args: dict[str, float] = {"packets": message.packets, "token": message.token}
            name = _message_name(run, message)
            yield work_event(name, "link", process, thread[link], message.left, end, args)


def _shown(links: NDArray[np.int64], thread: dict[int, int]) -> list[int]:
    return [link for link in links.tolist() if link in thread]


def link_name(link: int, grid: Grid) -> str:
    """``3,2 east`` of the link that leaves router (3, 2) to the east."""
    direction, router = divmod(link, grid.width * grid.height)
    y, x = divmod(router, grid.width)
    return f"{x},{y} {_DIRECTIONS[direction]}"


def write_replay(run: Replay, path: Path, links: int = LINKS) -> None:
    """Writes the trace as JSON; the same run gives the same bytes."""
    write_events(replay_events(run, links), run.recording.program.machine, run.machine.name, path)
