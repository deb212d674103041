"""The timing simulator: event-driven, one event per message and per piece of work.

A tile starts on a token when its inputs have arrived, its core is free, its weights are there, and its
outputs of two tokens ago have left. A message leaves when every receiver has a free buffer copy and the
links of its tree are free; it occupies each of them for its packets, and arrives after the slowest. What it
waited for is recorded apart for buffers and for links. Packets are expected numbers, so times are those of
average data.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.mapping.mapping import Mapping
from sdc.targets.neuro.mapping.tiles import FlowKind
from sdc.targets.neuro.route.load import link_time_ns
from sdc.targets.neuro.route.tree import HORIZONTAL

__all__ = ["Timing", "simulate_timing"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
OUTPUT_COPIES = 2


@dataclass(frozen=True)
class Timing:
    """What happened when, in nanoseconds.

    Attributes:
        start, end: [T, tokens] work of each tile on each token.
        flow, token, asked, left, arrived: [M] every message: when it was ready to leave, left, and had
            arrived.
        buffer_stall, link_stall: [M] what it waited for buffers and for links.
        link_busy: [4, height, width] how long each link was occupied.
        sent: [F] packets that left.
        delivered: [F] packets that arrived, over all receivers.
        makespan: End of the last work.
        streamed: Whether weights came from external memory, once for the whole batch.
    """

    start: Floats
    end: Floats
    flow: Ints
    token: Ints
    asked: Floats
    left: Floats
    arrived: Floats
    buffer_stall: Floats
    link_stall: Floats
    link_busy: Floats
    sent: Floats
    delivered: Floats
    makespan: float
    streamed: bool = False

    @property
    def latency_ns(self) -> float:
        """Time of the first token from beginning to end."""
        return float(self.end[:, 0].max())

    @property
    def period_ns(self) -> float:
        """Mean time between the ends of successive tokens; the latency if there is only one.

        Where weights are streamed, tokens end together, and each has its share of the whole batch.
        """
        if self.streamed:
            return self.makespan / self.start.shape[1]
        ends = self.end.max(axis=0)
        return float(np.diff(ends).mean()) if len(ends) > 1 else self.latency_ns


def simulate_timing(mapping: Mapping, tokens: int | None = None) -> Timing:
    """Runs a batch through a mapping.

    Args:
        tokens: Tokens of the batch; by default those of the schedule.
    """
    return _Simulation(mapping, tokens or mapping.schedule.tokens).run()


class _Simulation:
    def __init__(self, mapping: Mapping, tokens: int) -> None:
        self.mapping, self.tokens = mapping, tokens
        self.flows, self.costs = mapping.partition.flows, mapping.costs
        count = len(mapping.partition.tiles)
        self.work = mapping.costs.work_ns.tolist()
        self.lead = mapping.costs.lead_ns.tolist()
        self.core = mapping.core.tolist()
        self.out: list[list[int]] = [[] for _ in range(count)]
        self.waiting = np.zeros((count, tokens), np.int64)
        self.partial = np.zeros((count, tokens), np.int64)
        for f in np.flatnonzero(self.flows.kind != FlowKind.STATISTIC).tolist():
            self.out[int(self.flows.source[f])].append(f)
            needed = self.partial if self.flows.kind[f] == FlowKind.REDUCTION else self.waiting
            needed[self.flows.targets(f)] += 1
        self.start = np.full((count, tokens), np.nan)
        self.end = np.full((count, tokens), np.nan)
        self.left = np.zeros((count, tokens), np.int64)
        self.partial_at = np.zeros((count, tokens))
        self.next_token = [0] * count
        self.blocked: dict[int, deque[tuple[int, float]]] = {}
        self.held_back: dict[int, set[int]] = {}
        self.queue: list[tuple[float, int, str, int, int]] = []
        self.number = 0
        self.log: list[tuple[int, int, float, float, float, float, float]] = []
        self._network()
        self._turns()

    def _network(self) -> None:
        """Links of every routed flow, and how long one packet occupies each link."""
        routes, grid = self.mapping.routes, self.mapping.grid
        segment = np.repeat(np.arange(len(routes.flow)), routes.length)
        first = np.cumsum(routes.length) - routes.length
        place = routes.start[segment] + routes.step[segment] * (np.arange(len(segment)) - first[segment])
        flat = routes.axis[segment] == HORIZONTAL
        x, y = np.where(flat, place, routes.line[segment]), np.where(flat, routes.line[segment], place)
        direction = 2 * routes.axis[segment] + (routes.step[segment] < 0)
        link = (direction * grid.height + y) * grid.width + x
        bounds = np.searchsorted(routes.flow[segment], np.arange(len(self.mapping.routed) + 1))
        self.link_time = link_time_ns(self.mapping.machine).ravel()
        self.link_free = np.zeros(len(self.link_time))
        self.link_busy = np.zeros(len(self.link_time))
        self.links: dict[int, Ints] = {
            int(f): link[bounds[i] : bounds[i + 1]] for i, f in enumerate(self.mapping.routed)
        }

    def _turns(self) -> None:
        """The order of tiles on every core, and of weights on every chip."""
        wave = self.mapping.partition.tiles.wave
        self.turn: dict[int, deque[int]] = {}
        for tile in np.argsort(wave, kind="stable").tolist():
            self.turn.setdefault(self.core[tile], deque()).append(tile)
        self.loaded = [0.0] * len(wave)
        if self.mapping.schedule.loads is not None:
            self.loaded = [np.inf] * len(wave)
        self.core_free: dict[int, float] = dict.fromkeys(self.turn, 0.0)
        chip = self.mapping.grid.chip(self.mapping.core)
        self.to_load: dict[int, deque[int]] = {}
        for tile in range(len(wave)):
            self.to_load.setdefault(int(chip[tile]), deque()).append(tile)
        self.chip = chip.tolist()
        self.memory_free: dict[int, float] = dict.fromkeys(self.to_load, 0.0)
        self.tiles_left: dict[int, int] = dict.fromkeys(self.turn, 2)

    def run(self) -> Timing:
        """All events in order of time; equal times in the order of their making."""
        if self.mapping.schedule.loads is not None:
            for chip in self.to_load:
                self._load(chip, 0.0)
        for core in list(self.turn):
            self._try_core(core, 0.0)
        while self.queue:
            now, _, kind, a, b = heapq.heappop(self.queue)
            getattr(self, f"_on_{kind}")(now, a, b)
        return self._result()

    def _push(self, time: float, kind: str, a: int, b: int) -> None:
        self.number += 1
        heapq.heappush(self.queue, (time, self.number, kind, a, b))

    def _load(self, chip: int, now: float) -> None:
        """Begins to load the next tiles of a chip whose half of the memory is free."""
        memory = self.mapping.machine.external_memory
        assert memory is not None
        waiting = self.to_load[chip]
        while waiting and self.tiles_left[self.core[waiting[0]]] > 0:
            tile = waiting.popleft()
            self.tiles_left[self.core[tile]] -= 1
            size = int(self.mapping.partition.tiles.synapse_bytes[tile])
            time = size / memory.bandwidth_gb_per_s_per_chip + memory.latency_ns if size else 0.0
            self.memory_free[chip] = max(now, self.memory_free[chip]) + time
            self._push(self.memory_free[chip], "loaded", tile, 0)

    def _on_loaded(self, now: float, tile: int, _: int) -> None:
        self.loaded[tile] = now
        self._try_core(self.core[tile], now)

    def _try_core(self, core: int, now: float) -> None:
        """Starts the core's present tile on its next token if nothing is missing."""
        turn = self.turn[core]
        if not turn or self.core_free[core] > now:
            return
        tile = turn[0]
        token = self.next_token[tile]
        early = token - OUTPUT_COPIES
        if (
            token >= self.tokens
            or self.loaded[tile] > now
            or self.waiting[tile, token]
            or (early >= 0 and self.left[tile, early] < len(self.out[tile]))
        ):
            return
        self.next_token[tile] = token + 1
        self.start[tile, token] = now
        self.core_free[core] = np.inf
        self._push(now + self.lead[tile], "accumulated", tile, token)

    def _on_accumulated(self, now: float, tile: int, token: int) -> None:
        """The tile's own part is done; the rest needs the partial sums of others."""
        if not self.partial[tile, token]:
            ready = max(now, float(self.partial_at[tile, token]))
            self._push(ready + self.work[tile] - self.lead[tile], "done", tile, token)
        else:
            self.partial_at[tile, token] = -1.0  # marks that only the partial sums are missing

    def _on_done(self, now: float, tile: int, token: int) -> None:
        self.end[tile, token] = now
        core = self.core[tile]
        self.core_free[core] = now
        if token + 1 == self.tokens:
            self.turn[core].popleft()
            if self.mapping.schedule.loads is not None:
                self.tiles_left[core] += 1
                self._load(self.chip[tile], now)
        for flow in self.out[tile]:
            self._send(flow, token, now, now)
        for flow in self.held_back.pop(tile, ()):  # senders that waited for a buffer of this tile
            queue = self.blocked.get(flow, deque())
            while queue and self._room(flow, queue[0][0]):
                late, asked = queue.popleft()
                self._depart(flow, late, asked, now)
        self._try_core(core, now)

    def _room(self, flow: int, token: int) -> bool:
        """Whether every receiver has a free copy; remembers to try again if not."""
        early = token - int(self.mapping.schedule.depth[flow])
        if early < 0 or self.flows.external[flow]:
            return True
        for target in self.flows.targets(flow).tolist():
            if np.isnan(self.end[target, early]):
                self.held_back.setdefault(target, set()).add(flow)
                return False
        return True

    def _send(self, flow: int, token: int, asked: float, now: float) -> None:
        queue = self.blocked.setdefault(flow, deque())
        if queue or not self._room(flow, token):
            queue.append((token, asked))
        else:
            self._depart(flow, token, asked, now)

    def _depart(self, flow: int, token: int, asked: float, now: float) -> None:
        """Takes the links of the tree as soon as all of them are free."""
        links = self.links.get(flow, np.empty(0, np.int64))
        left, packets = now, float(self.costs.packets[flow])
        if len(links):
            left = max(now, float(self.link_free[links].max()))
            busy = packets * self.link_time[links]
            self.link_free[links] = left + busy
            self.link_busy[links] += busy
            serial = float(busy.max())
        else:
            serial = float(self.costs.serial_ns[flow])
            if self.flows.external[flow]:  # goes before the weights that are not under way yet
                chip = self.chip[int(self.flows.source[flow])]
                self.memory_free[chip] = max(now, self.memory_free[chip]) + serial
        arrived = left + serial + float(self.costs.head_ns[flow])
        self.log.append((flow, token, asked, left, arrived, now - asked, left - now))
        self._push(left + serial, "departed", flow, token)
        self._push(arrived, "arrived", flow, token)

    def _on_departed(self, now: float, flow: int, token: int) -> None:
        source = int(self.flows.source[flow])
        self.left[source, token] += 1
        self._try_core(self.core[source], now)

    def _on_arrived(self, now: float, flow: int, token: int) -> None:
        partial = self.flows.kind[flow] == FlowKind.REDUCTION
        for target in self.flows.targets(flow).tolist():
            if partial:
                self.partial[target, token] -= 1
                ready = not self.partial[target, token]
                if ready and self.partial_at[target, token] < 0:
                    self._push(now + self.work[target] - self.lead[target], "done", target, token)
                continue
            self.waiting[target, token] -= 1
            self._try_core(self.core[target], now)

    def _result(self) -> Timing:
        columns = list(zip(*self.log, strict=True)) if self.log else [()] * 7
        flow, token = (np.array(c, np.int64) for c in columns[:2])
        asked, left, arrived, buffer_stall, link_stall = (np.array(c, np.float64) for c in columns[2:])
        packets = self.costs.packets
        sent = np.bincount(flow, minlength=len(self.flows)) * packets
        grid = self.mapping.grid
        return Timing(
            start=self.start,
            end=self.end,
            flow=flow,
            token=token,
            asked=asked,
            left=left,
            arrived=arrived,
            buffer_stall=buffer_stall,
            link_stall=link_stall,
            link_busy=self.link_busy.reshape(4, grid.height, grid.width),
            sent=sent,
            delivered=sent * self.flows.fan_out,
            makespan=float(np.nanmax(self.end)),
            streamed=self.mapping.partition.streamed,
        )
