"""A simulated batch as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The format is Chrome's "Trace Event Format": complete events (``ph: X``) with times in microseconds. Chips are
processes, cores are threads; messages are on a process of their own, one thread for each sending core.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sdc.targets.neuro.mapping.mapping import Mapping
from sdc.targets.neuro.mapping.tiles import FlowKind
from sdc.targets.neuro.simulate.timing import Timing

__all__ = ["name_event", "trace_events", "work_event", "write_events", "write_trace"]


def trace_events(mapping: Mapping, timing: Timing) -> list[dict[str, Any]]:
    """Events in a fixed order: names of processes and threads, work of the cores, messages."""
    grid, part = mapping.grid, mapping.partition
    chip = grid.chip(mapping.core).tolist()
    network = max(chip, default=-1) + 1
    events = [name_event("process_name", c, 0, f"chip {c}") for c in sorted(set(chip))]
    events.append(name_event("process_name", network, 0, "network"))
    for core in np.unique(mapping.core).tolist():
        where = int(grid.chip(np.array([core]))[0])
        events.append(name_event("thread_name", where, core, grid.label(core)))
        events.append(name_event("thread_name", network, core, f"from {grid.label(core)}"))
    for tile, core in enumerate(mapping.core.tolist()):
        name = part.tile_name(tile)
        for token in range(timing.start.shape[1]):
            begin, end = timing.start[tile, token], timing.end[tile, token]
            place = {"token": token, "layer": part.ops[int(part.tiles.op[tile])].layer}
            events.append(work_event(name, "core", chip[tile], core, begin, end, place))
    for m, flow in enumerate(timing.flow.tolist()):
        source = int(part.flows.source[flow])
        args: dict[str, float] = {
            "token": int(timing.token[m]),
            "packets": round(float(mapping.costs.packets[flow]), 3),
            "targets": len(part.flows.targets(flow)),
            "buffer_stall_ns": round(float(timing.buffer_stall[m]), 3),
            "link_stall_ns": round(float(timing.link_stall[m]), 3),
        }
        name = f"{FlowKind(int(part.flows.kind[flow])).name.lower()} of {part.tile_name(source)}"
        begin, end = timing.left[m], timing.arrived[m]
        events.append(work_event(name, "message", network, int(mapping.core[source]), begin, end, args))
    return events


def name_event(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    """The name of a process or thread."""
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def work_event(
    name: str, category: str, process: int, thread: int, begin: float, end: float, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": thread,
        "ts": round(float(begin) / 1e3, 6),
        "dur": round(float(end - begin) / 1e3, 6),
        "args": args,
    }


def write_trace(mapping: Mapping, timing: Timing, path: Path) -> None:
    """Writes the trace as JSON; the same simulation gives the same bytes."""
    write_events(trace_events(mapping, timing), mapping.graph.name, mapping.machine.name, path)


def write_events(events: list[dict[str, Any]], model: str, machine: str, path: Path) -> None:
    """Writes events as one JSON document."""
    document = {
        "displayTimeUnit": "ns",
        "otherData": {"model": model, "machine": machine},
        "traceEvents": events,
    }
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")
