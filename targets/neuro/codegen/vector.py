"""The vector cores: everything of a model but synapses and caches.

The operations between two linear layers (residual sums, norm, rotary embedding, Hadamard, encoding ...) are
one *stretch*, and each stretch has a core of its own. What one stretch needs of an earlier one travels as
words.
Memory is given back after the last use of what lies in it.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.ir.model import Model
from sdc.targets.neuro.codegen.builder import CoreBuilder, ProgramBuilder
from sdc.targets.neuro.codegen.linear import Result
from sdc.targets.neuro.codegen.signature import Port, Probe
from sdc.targets.neuro.codegen.values import Array, Input, Placement, Room, Value, Weight, rooms_of
from sdc.targets.neuro.isa.fields import Ref
from sdc.targets.neuro.isa.program import HOST

__all__ = ["VectorCores"]


class VectorCores:
    """The vector cores under construction; one of them is in work.

    Attributes:
        where: Name of the operation in work, for messages.
        upcoming: Name of the linear layer that ends the stretch in work; "" in the last one.
        inputs, outputs: What the host sends and takes, so far.
        probes: Where counts of operations are made, so far.
    """

    def __init__(self, model: Model, program: ProgramBuilder, placement: Placement) -> None:
        self.model, self.program, self.placement = model, program, placement
        self.where = self.upcoming = ""
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.probes: list[Probe] = []
        self._core: CoreBuilder | None = None
        self._constants: dict[Any, Array] = {}
        self._external: dict[str, int] = {}
        self._tables: dict[tuple[int, str], Ref] = {}
        self._arrived: dict[str, Array] = {}
        self._rows: dict[str, _TableCores] = {}
        self._uses: Counter[Room] = Counter()
        self._copies: dict[Room, dict[tuple[int, Ref, int], Array]] = {}

    @property
    def core(self) -> CoreBuilder:
        """The core in work."""
        if self._core is None:
            name = f"{self.upcoming} encoder" if self.upcoming else "output"
            self._core = self.program.core(self.placement.vector(self.upcoming), name)
        return self._core

    def works_on(self, core: int) -> bool:
        """Whether this is the core in work."""
        return self._core is not None and self._core.core == core

    def next_stretch(self, upcoming: str) -> None:
        """What follows is done by another core, up to the linear layer of that name."""
        self._core, self.upcoming = None, upcoming

    def finish(self) -> NDArray:
        """Emits what could not be emitted before; contents of the external memory, uint8."""
        for table in self._rows.values():
            table.emit()
        return self.program.external.contents()

    def error(self, message: str) -> TargetError:
        """An error that names the operation in work."""
        return TargetError(f"{self.where}: {message}")

    # Values

    def weight(self, value: Value) -> NDArray:
        """The values of a parameter.

        Raises:
            TargetError: It is computed at run time.
        """
        if not isinstance(value, Weight):
            raise self.error("a weight must be a parameter of the model")
        return self.model.params[value.name].value()

    def constant(self, array: NDArray, key: str | None = None) -> Array:
        """Float32 constants in the core's memory; once per ``key``."""
        data = np.asarray(array, np.float32)
        name = (self.core.core, key or (data.shape, data.tobytes()))
        if name not in self._constants:
            self._constants[name] = Array(self.core.core, self.core.constant(data), data.shape)
        return self._constants[name]

    def array(self, value: Value) -> Array:
        """An activation in the memory of the core in work, or a small weight as a constant there."""
        if isinstance(value, Weight):
            return self.constant(self.weight(value), value.name)
        if isinstance(value, Input):
            value = self._receive(value)
        if not isinstance(value, Array):
            raise self.error(f"an activation was expected, not a {type(value).__name__.lower()}")
        return value if value.core == self.core.core else self._fetch(value)

    def new(self, shape: tuple[int, ...], train: Any = None) -> Array:
        """Room for an activation on the core in work."""
        count = math.prod(shape)
        ref = self.core.words(count)
        return Array(self.core.core, ref, shape, Room(self.core.core, ref.address, count), train)

    def take(self, result: Result, shape: tuple[int, ...]) -> Array:
        """Receives what other cores send to the core in work."""
        array = self.new(shape)
        self.core.emit("recvw", array.ref, result.rows, result.tag, result.sources)
        return array

    def hold(self, value: Value) -> None:
        """A variable has this value."""
        self._uses.update(rooms_of(value))

    def drop(self, value: Value) -> None:
        """A variable with this value was used for the last time."""
        for room in rooms_of(value):
            self._uses[room] -= 1
            if not self._uses[room]:
                self._release(room)

    def discard(self, array: Array) -> None:
        """Gives back an array that no variable holds."""
        assert array.room is not None
        assert not self._uses[array.room]
        self._release(array.room)

    def _release(self, room: Room) -> None:
        self.program.cores[room.core].release(room.start, room.count)
        for copy in self._copies.pop(room, {}).values():
            self.discard(copy)

    def _fetch(self, array: Array) -> Array:
        """Another core's array, sent to the core in work, once."""
        own = self.core.core
        copies = self._copies.setdefault(array.room, {}) if array.room else {}
        key = (own, array.ref, array.size)
        if key not in copies:
            source = self.program.cores[array.core]
            tag = self.program.tag(own)
            source.note(f"for {self.core.name}")
            source.emit("sendw", array.ref, array.size, source.route(tag, own), 0)
            copies[key] = self.take(Result(tag, array.size, 1), array.shape)
        made = copies[key]
        return Array(made.core, made.ref, array.shape, made.room, array.train)

    # What comes from outside

    def _receive(self, given: Input) -> Array:
        if given.name not in self._arrived:
            self._arrived[given.name] = self._port(given.name, given.shape, given.dtype)
            self.hold(self._arrived[given.name])  # for good: a later stretch may ask for it
        return self._arrived[given.name]

    def _port(
        self, name: str, shape: tuple[int, ...], dtype: str, row_bytes: int = 0, offset: int = 0
    ) -> Array:
        tag = self.program.tag(self.core.core)
        self.core.note(f"input {name}" + (": its row of a table that the host keeps" if row_bytes else ""))
        self.inputs.append(Port(name, self.core.core, tag, shape, dtype, 1, row_bytes, offset))
        return self.take(Result(tag, math.prod(shape), 1), shape)

    def look_up(self, table: Weight, row: Value, shape: tuple[int, ...]) -> Array:
        """A row of a table that no core can hold: from external memory, or else from the host."""
        start, width = self._outside(table), table.shape[1]
        if not self.placement.external:
            if not isinstance(row, Input):
                raise self.error("a table that no core can hold can only be looked up by an input")
            return self._port(row.name, shape, "float32", 4 * width, start)
        index, out = self.array(row), self.new(shape)
        buffer = self.core.bytes(4 * width)
        self.core.emit("fetch", buffer, start, index.ref, 4 * width)
        self.core.emit("ldw", out.ref, buffer, width)
        return out

    def _outside(self, value: Weight) -> int:
        """The address of a float32 table in external memory."""
        if value.name not in self._external:
            self._external[value.name] = self.program.external.add(self.weight(value).astype(np.float32))
        return self._external[value.name]

    def table(self, value: Weight) -> Ref:
        """The address of a float32 table in the core's synapse memory, once."""
        key = (self.core.core, value.name)
        if key not in self._tables:
            self._tables[key] = self.core.constant(self.weight(value).astype(np.float32), "s")
        return self._tables[key]

    def position_row(self, table: Value) -> Array:
        """The row of a table [positions, width] that belongs to the token in work."""
        assert isinstance(table, Weight)
        if table.name not in self._rows:
            self._rows[table.name] = _TableCores(self, table)
        return self._rows[table.name].row()

    # What goes outside

    def send_output(self, name: str, value: Array) -> None:
        """Sends a value to the host."""
        tag, source = self.program.tag(HOST), self.program.cores[value.core]
        source.note(f"output {name}")
        source.emit("sendw", value.ref, value.size, source.route(tag, HOST), 0)
        self.outputs.append(Port(name, value.core, tag, value.shape, "float32"))


class _TableCores:
    """Cores that hold a table by position, and send its row of each token to everyone who asked.

    The first to ask sets them going, with a message of no words.
    """

    def __init__(self, owner: VectorCores, table: Weight) -> None:
        self.owner, self.name = owner, table.name
        self.values = owner.weight(table).astype(np.float32)
        self.tag = owner.program.shared_tag()
        length, width = self.values.shape
        fitting = max(1, owner.placement.synapse_bytes // (4 * length))
        near = owner.core.core
        self.parts = list(pairwise([*range(0, width, fitting), width]))
        self.cores = [owner.placement.spare(near) for _ in self.parts]
        self.rows: dict[int, Array] = {}
        self.go = owner.program.tag(*self.cores)
        owner.core.emit("sendw", Ref(0), 0, owner.core.route(self.go, *self.cores), 0)

    def row(self) -> Array:
        own = self.owner.core.core
        if own not in self.rows:
            width = self.values.shape[1]
            self.rows[own] = self.owner.take(Result(self.tag, width, len(self.parts)), (width,))
            self.owner.hold(self.rows[own])
        return self.rows[own]

    def emit(self) -> None:
        length = len(self.values)
        for number, (first, last) in zip(self.cores, self.parts, strict=True):
            core = self.owner.program.core(number, f"table {self.name}, columns {first}..{last - 1}")
            core.note(f"{self.name}: the row of this position, columns {first}..{last - 1}")
            place, out, row = (
                core.constant(self.values[:, first:last], "s"),
                core.words(last - first),
                core.words(1),
            )
            core.emit("recvw", out, 0, self.go, 1)
            core.emit("pos", row)
            core.emit("gather", out, place, row, last - first, length)
            core.emit("sendw", out, last - first, core.route(self.tag, *self.rows), first)
