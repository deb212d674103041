"""One function of a decoder as one parallel region.

The thread pool of TVM starts and joins its threads for every kernel: hundreds of times a token, and where
another program holds one of the cores, each time may last a time slice of some milliseconds. A region is
entered once a token. Inside, the threads go through the same list of steps; of each step they claim pieces
until none is left, and wait until all are done. A thread that has lost its core in between keeps back only
the piece that it was at: the others do the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import relax, tirx
from tvm.sym import Analyzer
from tvm.tirx.script import builder as T

from sdc.targets.cpu.emit import loop, prim_func, store
from sdc.targets.cpu.following import CHOOSE, FOLLOWING
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.sample import sample
from sdc.targets.cpu.region.following import choose, follow
from sdc.targets.cpu.region.own import OwnSteps
from sdc.targets.cpu.region.plan import Slot, place
from sdc.targets.cpu.region.program import Fixed, Step, Steps, read_steps
from sdc.targets.cpu.region.sync import (
    LINE,
    PIECE,
    PIECES,
    PLACE,
    SHARES,
    claim,
    finish,
    sync_functions,
    sync_ir,
    wait,
)
from sdc.targets.cpu.task import Task, as_task, plain_function

__all__ = ["Region", "make_region", "substitute", "symbol_of"]

# Below this many bytes, a tensor is no weight of a linear that is worth reading ahead.
_LEAST_WEIGHT = 1 << 15
_WEIGHT_AXES = 4  # as sdc.targets.cpu.packing gives them

# Steps that are a function of their own: LLVM takes a time that grows with more than the square of a
# function's size. Of the 273 of a model of thirty layers in one, it took a minute.
_PART = 18

_CHOICE = "sample"  # the choice of a token, among the tasks
_BLOCKS = ("weights", "states", "arena")


@dataclass(frozen=True)
class Region:
    """A function and its parts, by name, and the tasks that they call.

    Attributes:
        tasks: By the names of their kernels; functions are called as :func:`symbol_of` says.
        arena: Bytes of counters and intermediate tensors.
        area: Bytes of one thread's work area; the arena comes first, then one area a thread.
        steps: Kernels that it runs.
        meetings: Those after which all threads wait for each other.
    """

    functions: dict[str, tirx.PrimFunc]
    tasks: dict[str, Task]
    arena: int
    area: int
    steps: int
    meetings: int

    @property
    def all_functions(self) -> dict[str, tirx.PrimFunc]:
        """With the tasks': all that has to be in its module."""
        tasks = {symbol_of(kernel): task.function for kernel, task in self.tasks.items()}
        return self.functions | {s: f.with_attr("global_symbol", s) for s, f in tasks.items()}


def make_region(
    name: str,
    function: relax.Function,
    kernels: Mapping[str, Callable[[], tirx.PrimFunc]],
    fixed: Mapping[Any, Fixed],
    isa: Isa,
    bound: int = 1,
    apart: int = 0,
    continues: bool = False,
) -> Region | None:
    """The region of a lowered function; None where the function does more than call our kernels.

    The result's function ``name`` takes ``(tokens [1, n] int64, position int64 (), weights, states, arena
    uint8, threads [1] int32, result float32)``, the result as one row.

    Args:
        name: Of the region's function.
        function: Lowered; its parameters are tokens, position, states and weights.
        kernels: How to generate each kernel, by its name in the module.
        fixed: The place of every parameter.
        isa: The instruction set.
        bound: Largest number of tokens; 1 where the function takes one.
        apart: Bytes from one sequence's states to the next one's, where every token is of a sequence of its
            own: kernels of one token are then called for each row, and ``position`` [2, n] holds the rows'
            positions and the numbers of their sequences. 0: tokens follow each other in one sequence.
        continues: Adds the functions ``following``, which goes on with the token that it chooses, and
            ``choose`` (:mod:`sdc.targets.cpu.region.following`); for functions of one token whose result are
            logits.
    """
    steps = read_steps(function, fixed, bound)
    if steps is None or any(step.kernel not in kernels for step in steps.calls):
        return None
    names = dict.fromkeys(step.kernel for step in steps.calls)
    tasks = {kernel: as_task(kernels[kernel], bound) for kernel in names}
    counters = LINE * len(steps.calls)
    own = OwnSteps(steps, tasks if bound == 1 else {})
    arena = place(own.shared, counters)
    area = own.place(max((task.scratch for task in tasks.values()), default=0))
    emitter = _Emitter(steps, tasks, (arena, area), own, bound, apart)
    parts = emitter.parts(name)
    made = {**parts, **sync_functions(), name: prim_func(name, lambda: emitter.emit(isa, list(parts)))}
    if continues:
        vocab = int(steps.result_shape[-1])
        tasks[_CHOICE] = choice = as_task(partial(sample, vocab, isa), bound)
        made[CHOOSE] = prim_func(CHOOSE, lambda: choose(vocab, choice, symbol_of(_CHOICE)))
        made[FOLLOWING] = prim_func(FOLLOWING, lambda: emitter.emit_following(isa, list(parts), choice))
    functions = {symbol: function.with_attr("global_symbol", symbol) for symbol, function in made.items()}
    count = len(steps.calls)
    return Region(functions, tasks, arena, area, count, count - len(own.numbers))


@dataclass(frozen=True)
class _Memory:
    """The parameters of a region's function; ``blocks`` are weights, states and arena, ``n`` its tokens."""

    tokens: Any
    position: Any
    blocks: list[Any]
    threads: Any
    result: Any
    n: Any


class _Emitter:
    def __init__(
        self,
        steps: Steps,
        tasks: Mapping[str, Task],
        sizes: tuple[int, int],
        own: OwnSteps,
        bound: int,
        apart: int,
    ) -> None:
        self.steps, self.tasks, self.own, self.bound, self.apart = steps, tasks, own, bound, apart
        self.arena_size, self.area_size = sizes
        self.computes = bound > 1 and not apart  # computing takes the time, not reading

    def emit(self, isa: Isa, parts: Sequence[str]) -> None:
        """The region's body: all threads go through the parts."""
        self.run(self.memory(), isa, parts)

    def emit_following(self, isa: Isa, parts: Sequence[str], choice: Task) -> None:
        """The body of the region with a choice of the next token, again and again."""
        memory = self.memory()
        step = partial(self.run, memory, isa, parts)
        follow(memory.tokens, memory.position, memory.result, step, choice, symbol_of(_CHOICE))

    def memory(self) -> _Memory:
        """Declares a region's parameters."""
        n: Any = 1 if self.bound == 1 else tirx.Var("n", "int64")

        def block(name: str) -> Any:
            return T.match_buffer(T.arg(name, T.handle()), (tirx.Var(f"{name}_size", "int64"),), "uint8")

        tokens = T.match_buffer(T.arg("tokens", T.handle()), (1, n), "int64")
        position = T.match_buffer(T.arg("position", T.handle()), self.places(n), "int64")
        blocks = [block(b) for b in _BLOCKS]
        threads = T.match_buffer(T.arg("threads", T.handle()), (1,), "int32")
        size: Any = 1
        for length in self.steps.result_shape:
            size = size * (length if isinstance(length, int) else n)
        result = T.match_buffer(T.arg("result", T.handle()), (size,), "float32")
        return _Memory(tokens, position, blocks, threads, result, n)

    def run(self, memory: _Memory, isa: Isa, parts: Sequence[str]) -> None:
        """Runs the parts once, on all threads."""
        origin = (0, 0) if self.apart else ()
        pointers = [memory.tokens[0, 0], memory.position[origin], *(each[0] for each in memory.blocks)]
        given = [tirx.address_of(each) for each in (*pointers, memory.result[0])]
        with T.attr(0, "pragma_import_llvm", sync_ir(isa)):
            with loop(LINE * len(self.steps.calls)) as i:
                store(memory.blocks[-1], (i,), tirx.const(0, "uint8"))
            count = T.bind(memory.threads[0])
            with loop(count, parallel=True) as thread:
                ahead = T.alloc_buffer((PLACE,), "int64", scope="global")
                for number in range(PLACE):
                    T.buffer_store(ahead, tirx.const(0, "int64"), [number])
                numbers = [memory.n if self.bound > 1 else tirx.const(1, "int64"), thread, count]
                for part in parts:
                    called = (*given, tirx.address_of(ahead[0]), *numbers)
                    T.evaluate(tirx.call_extern("int32", part, *called))

    def places(self, n: Any) -> tuple[Any, ...]:
        """The shape of positions."""
        return (2, n) if self.apart else ()

    def parts(self, name: str) -> dict[str, tirx.PrimFunc]:
        """The steps as functions that one thread runs, some steps in each."""
        starts = range(0, len(self.steps.calls), _PART)
        return {f"{name}_from_{i}": plain_function(name, partial(self.part, i)) for i in starts}

    def part(self, first: int) -> tuple[list[tuple[Any, Any]], list[Any]]:
        """Records a few steps."""
        buffers: list[tuple[Any, Any]] = []

        def pointed(name: str, shape: tuple[Any, ...], dtype: str) -> Any:
            pointer = T.arg(name, T.handle(dtype))
            buffers.append((tirx.decl_buffer(shape, dtype, name, data=pointer), pointer))
            return buffers[-1][0]

        length = tirx.Var("n", "int64")
        self.n = 1 if self.bound == 1 else length
        self.tokens = pointed("tokens", (1, self.n), "int64")
        self.position = pointed("position", self.places(self.n), "int64")
        self.blocks = {b: pointed(b, (1,), "uint8") for b in _BLOCKS}
        self.result = tirx.address_of(pointed("result", (1,), "float32")[0])
        self.ahead = tirx.address_of(pointed("ahead", (PLACE,), "int64")[0])
        T.arg("n", length)
        self.thread, self.threads = (T.arg(n, tirx.Var(n, "int32")) for n in ("thread", "threads"))
        self.area = T.bind(self.thread.astype("int64") * self.area_size + self.arena_size)
        # Whether there is a piece, and its turns; whether it is the step's first one of this thread.
        self.mine, self.fresh = (T.alloc_buffer((n,), "int32", scope="global") for n in (PIECE, 1))
        self.counts: dict[str, Any] = {}
        for number, step in enumerate(self.steps.calls[first : first + _PART], first):
            self.step(number, step)
        return buffers, []

    def address(self, block: str, offset: Any) -> Any:
        at = tirx.const(offset, "int64") if isinstance(offset, int) else offset
        return tirx.address_of(self.blocks[block][at])

    def step(self, number: int, step: Step) -> None:
        """Claims pieces and runs them, then waits for those that others claimed; of its own, runs all."""
        task = self.tasks[step.kernel]
        each = self.apart > 0 and _is_of_one_row(task, step)
        arguments, lengths = self.arguments(task, step)
        if number in self.own.numbers:
            self.call(task, step, (_int(0), _int(1), _int(1)), arguments)
            return
        line = self.address("arena", LINE * number)
        count = self.turns(task.count * self.n if each else task.count, lengths)
        share = SHARES if self.computes else PIECES
        asked = (line, count, share, self.thread, self.threads, tirx.address_of(self.mine[0]))
        claimed, first, end = (self.mine[i] for i in range(PIECE))
        T.buffer_store(self.fresh, _int(1), [0])
        claim(*asked)
        with T.While(claimed != 0):
            if each:
                with T.serial(first, end) as piece:
                    self.call_on_row(task, step, piece)
            else:
                self.call(task, step, (first, end, self.fresh[0]), arguments)
                T.buffer_store(self.fresh, _int(0), [0])
            finish(line, end - first)
            claim(*asked)
        self.wait(number, line, count)

    def wait(self, number: int, line: Any, count: Any) -> None:
        """Waits for a step's pieces; reads ahead of the next linear where reading takes the time."""
        later = (found for step in self.steps.calls[number + 1 :] if (found := _weight(step)) is not None)
        weight = None if self.computes else next(later, None)
        pointer, size = (
            (line, 0) if weight is None else (self.address("weights", weight[0].offset), weight[1])
        )
        wait(line, count, pointer, size, self.thread, self.threads, self.ahead)

    def call(self, task: Task, step: Step, pieces: tuple[Any, Any, Any], arguments: list[Any]) -> None:
        """Runs pieces of a task: first, last + 1, whether the thread begins with them."""
        work = [self.address("arena", self.area + at) for at in task.work]
        T.evaluate(tirx.call_extern("int32", symbol_of(step.kernel), *pieces, *arguments, *work))

    def call_on_row(self, task: Task, step: Step, piece: Any) -> None:
        """Runs one piece of a task on one row; those of a row follow each other."""
        row = T.bind(tirx.floordiv(piece, task.count))
        own = T.bind(tirx.floormod(piece, task.count))
        arguments, _ = self.arguments(task, step, row.astype("int64"))
        self.call(task, step, (own, own + 1, _int(1)), arguments)

    def turns(self, count: Any, lengths: Mapping[Any, Any]) -> Any:
        """How often a step's loop runs."""
        if isinstance(count, int):
            return _int(count)
        whole = substitute(count, lengths)
        # Named once: TVM's passes take a time that grows with the square of the number of names.
        key = str(whole)
        if key not in self.counts:
            self.counts[key] = _int(whole) if isinstance(whole, int) else T.bind(whole.astype("int32"))
        return self.counts[key]

    def arguments(self, task: Task, step: Step, row: Any = None) -> tuple[list[Any], dict[Any, Any]]:
        """Pointers and lengths in the order of the task's parameters; ``row``: of one row's tensors."""
        lengths: dict[Any, Any] = {}
        given = iter(step.arguments)
        pointers: dict[int, Any] = {}
        for index, declared in enumerate(task.arguments):
            if isinstance(declared, tuple):
                where, shape = next(given)
                pointers[index] = self.pointer(where, row)
                for mine, theirs in zip(declared, shape, strict=True):
                    if isinstance(mine, tirx.Var):
                        lengths[mine] = tirx.const(theirs, "int64") if isinstance(theirs, int) else self.n
        values = [pointers[i] if i in pointers else lengths[v] for i, v in enumerate(task.arguments)]
        return values, lengths

    def pointer(self, where: Fixed | Slot, row: Any) -> Any:
        """Where a tensor begins; with ``row``, that row of a tensor that has one for each token."""
        first = tirx.const(0, "int64") if row is None else row
        if isinstance(where, Slot):
            if where is self.steps.result:
                return self.result
            offset = where.offset + first * (where.size // self.bound)
            return self.address("arena", self.area + offset if where.first in self.own.numbers else offset)
        if where.block == "tokens":
            return tirx.address_of(self.tokens[0, first])
        if where.block == "position":
            return tirx.address_of(self.position[(0, first) if self.apart else ()])
        if where.block == "states" and row is not None:
            return self.address("states", self.position[1, row] * self.apart + where.offset)
        return self.address(where.block, where.offset)


def _int(value: int) -> Any:
    return tirx.const(value, "int32")


def symbol_of(kernel: str) -> str:
    """The name of a kernel's task, which regions with equal bounds share."""
    return f"task_{kernel}"


def _weight(step: Step) -> tuple[Fixed, int] | None:
    """The weights that a linear reads whole, and their bytes; None where a step is no linear."""
    for where, shape in step.arguments:
        if isinstance(where, Fixed) and where.block == "weights" and len(shape) == _WEIGHT_AXES:
            size = 4 * math.prod(int(length) for length in shape)
            if size >= _LEAST_WEIGHT:
                return where, size
    return None


def _is_of_one_row(task: Task, step: Step) -> bool:
    """Whether a task takes one row of tensors that have one for each token."""
    shapes = [declared for declared in task.arguments if isinstance(declared, tuple)]
    pairs = zip(shapes, (given for _, given in step.arguments), strict=True)
    return any(d and g and d[0] == 1 and not isinstance(g[0], int) for d, g in pairs)


def substitute(expr: Any, values: Mapping[Any, Any]) -> Any:
    """A length in terms of other symbols, or a number."""
    analyzer = Analyzer()
    for var, value in values.items():
        analyzer.bind(var, value)
    return analyzer.simplify(expr)
