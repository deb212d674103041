"""Spike accumulation and readout for many tokens: int8 tensor cores over tiles in shared memory.

A block of four warps gives 64 tokens x 128 rows; each warp 32 x 64, by mma.m16n8k32. Tiles of 32 or 64
channels lie twice in shared memory: while one is multiplied, the next is read into registers, then put beside
it. After the last channel of a group the int32 accumulators, exact, are scaled into float32 sums, groups
ascending.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    MMA_K,
    WARP,
    WORD,
    barrier,
    blocks,
    let,
    load_words,
    loop,
    mma,
    registers,
    shared,
    threads,
    unrolled,
)
from sdc.targets.cuda.kernels.linear import Operands, declare_operands, finished, scale_at, unpack
from sdc.targets.fused.emit import const, if_, load, otherwise, prim_func, store, symbol, then
from sdc.targets.fused.specs import LinearSpec

__all__ = ["spike_gemm"]

TOKENS, ROWS, THREADS = 64, 128, 128
# Of one warp: tiles of 16 tokens and of 8 rows.
_M, _N = 2, 8
_VECTOR = 4  # words of one 16-byte access


def spike_gemm(spec: LinearSpec) -> tirx.PrimFunc:
    """The kernel on :class:`sdc.targets.cuda.kernels.linear.Operands`, groups of whole 32 channels."""
    return prim_func(spec.key(), lambda: _Kernel(spec).emit())


class _Kernel:
    def __init__(self, spec: LinearSpec) -> None:
        self.spec = spec
        self.step = 2 * MMA_K if spec.group % (2 * MMA_K) == 0 else MMA_K
        self.words = self.step // WORD
        # Four words between rows: the eight rows that a fragment reads lie in different banks.
        self.pitch = self.words + _VECTOR
        self.steps = spec.width // self.step

    def emit(self) -> None:
        spec = self.spec
        self.n: Any = spec.tokens or symbol("n")
        self.operands: Operands = declare_operands(spec, self.n)
        with (
            blocks("x", tirx.floordiv(self.n + TOKENS - 1, TOKENS)) as bx,
            blocks("y", -(-spec.rows // ROWS)) as by,
            threads(THREADS) as t,
        ):
            self.t, self.lane = t, let(tirx.floormod(t, WARP))
            warp = let(tirx.floordiv(t, WARP))
            self.first_token, self.first_row = bx * TOKENS, by * ROWS
            self.quad, self.octet = let(tirx.floormod(self.lane, 4)), let(tirx.floordiv(self.lane, 4))
            self.warp_token, self.warp_row = (
                let(tirx.floordiv(warp, 2) * 32),
                let(tirx.floormod(warp, 2) * 64),
            )
            self.allocate()
            self.fetch(0)
            self.put(0)
            barrier()
            with loop(self.steps) as step:
                with if_(step + 1 < self.steps), then():
                    self.fetch(step + 1)
                self.multiply(tirx.floormod(step, 2))
                self.scale(step)
                with if_(step + 1 < self.steps), then():
                    self.put(tirx.floormod(step + 1, 2))
                barrier()
            if not spec.raw:
                self.write()

    def allocate(self) -> None:
        size = _M * _N * 4
        # Flat, because TVM would drop the gap between the rows of an array with more axes.
        self.tokens = shared((2 * TOKENS * self.pitch,), "int32")
        self.rows = shared((2 * ROWS * self.pitch,), "int32")
        self.acc, self.total = registers(size, "int32"), registers(size, "float32")
        self.a, self.b = registers(_M * 4, "int32"), registers(2, "int32")
        with unrolled(size) as i:
            store(self.acc, (i,), const(0, "int32"))
            store(self.total, (i,), const(0.0, "float32"))
        # 16-byte vectors of a tile a thread moves; packed rows have half the bytes.
        self.token_vectors = TOKENS * self.words // _VECTOR // THREADS
        row_words = self.words if self.spec.bits == 8 else self.words // 2
        self.row_vectors = ROWS * row_words // _VECTOR // THREADS
        self.next_tokens = registers(max(1, self.token_vectors) * _VECTOR, "int32")
        self.next_rows = registers(max(1, self.row_vectors) * _VECTOR, "int32")

    def token_at(self, side: Any, row: Any, word: Any) -> tuple[Any]:
        return ((side * TOKENS + row) * self.pitch + word,)

    def row_at(self, side: Any, row: Any, word: Any) -> tuple[Any]:
        return ((side * ROWS + row) * self.pitch + word,)

    def places(self, vectors: int, words: int) -> list[tuple[int, Any, Any]]:
        """(number, row of the tile, first word in the row) of every vector that this thread moves."""
        per_row = words // _VECTOR
        found = []
        for v in range(vectors):
            at = let(self.t + v * THREADS)
            found.append((v, let(tirx.floordiv(at, per_row)), let(tirx.floormod(at, per_row) * _VECTOR)))
        return found

    def fetch(self, step: Any) -> None:
        """The tiles of a step into registers; tokens and rows that do not exist count 0."""
        spec = self.spec
        for v, row, word in self.places(self.token_vectors, self.words):
            token = let(self.first_token + row)
            with if_(token < self.n):
                with then():
                    at = (token, step * self.step + word * WORD)
                    store(self.next_tokens, (v * 4,), load_words(self.operands.counts, at, 4), 4)
                with otherwise():
                    store(self.next_tokens, (v * 4,), const(0, "int32", 4), 4)
        words = self.words if spec.bits == 8 else self.words // 2
        for v, row, word in self.places(self.row_vectors, words):
            # A row past the last is read from the last; its sums are not written.
            safe = let(tirx.min(self.first_row + row, spec.rows - 1))
            if spec.bits == 8:
                vector = load_words(self.operands.weight, (safe, step * self.step + word * WORD), 4)
            else:
                vector = load(self.operands.weight, (safe, step * words + word), 4)
            store(self.next_rows, (v * 4,), vector, 4)

    def put(self, side: Any) -> None:
        """The fetched tiles into shared memory, unpacked."""
        for v, row, word in self.places(self.token_vectors, self.words):
            store(self.tokens, self.token_at(side, row, word), load(self.next_tokens, (v * 4,), 4), 4)
        if self.spec.bits == 8:
            for v, row, word in self.places(self.row_vectors, self.words):
                store(self.rows, self.row_at(side, row, word), load(self.next_rows, (v * 4,), 4), 4)
            return
        bytes_ = registers(8, "int32")
        for v, row, word in self.places(self.row_vectors, self.words // 2):
            for i in range(4):
                unpack(bytes_, 2 * i, load(self.next_rows, (v * 4 + i,)))
            for half in range(2):
                store(self.rows, self.row_at(side, row, word * 2 + 4 * half), load(bytes_, (4 * half,), 4), 4)

    def multiply(self, side: Any) -> None:
        """All tensor-core steps of one tile; fragments as :func:`sdc.targets.cuda.emit.mma` wants them."""
        for k in range(0, self.words, MMA_K // WORD):
            for i in range(_M):
                for part in range(4):
                    row = self.warp_token + self.octet + (16 * i + 8 * (part % 2))
                    word = self.quad + (k + 4 * (part // 2))
                    store(self.a, (4 * i + part,), load(self.tokens, self.token_at(side, row, word)))
            for j in range(_N):
                for part in range(2):
                    row = self.warp_row + self.octet + 8 * j
                    store(
                        self.b, (part,), load(self.rows, self.row_at(side, row, self.quad + (k + 4 * part)))
                    )
                for i in range(_M):
                    a = [load(self.a, (4 * i + part,)) for part in range(4)]
                    b = [load(self.b, (part,)) for part in range(2)]
                    mma(self.acc, 4 * (_N * i + j), a, b, unsigned=self.spec.unsigned)

    def element(self, i: int, j: int, part: int) -> tuple[int, Any, Any]:
        """(register, token, row) of one of a lane's results."""
        token = self.first_token + self.warp_token + self.octet + (16 * i + 8 * (part // 2))
        row = self.first_row + self.warp_row + self.quad * 2 + (8 * j + part % 2)
        return 4 * (_N * i + j) + part, token, row

    def scale(self, step: Any) -> None:
        """At the end of a group: total += (theta * scale) * float(acc), and the accumulators start again."""
        per_group = self.spec.group // self.step
        ends = tirx.floormod(step + 1, per_group).equal(0)
        with if_(ends), then():
            group = let(tirx.floordiv(step, per_group))
            if self.spec.raw:
                self.each(lambda at, token, row: self.write_raw(at, token, row, group))
            else:
                self.add_scaled(group)
            with unrolled(_M * _N * 4) as i:
                store(self.acc, (i,), const(0, "int32"))

    def add_scaled(self, group: Any) -> None:
        spec = self.spec
        groups = spec.width // spec.group
        thetas = registers(2 * _M, "float32")
        for i in range(_M):
            for half in range(2):
                token = let(tirx.min(self.element(i, 0, 2 * half)[1], self.n - 1))
                at = (token, tirx.floordiv(group * spec.theta_groups, groups))
                store(thetas, (2 * i + half,), load(self.operands.theta, at))
        for j in range(_N):
            for side in range(2):
                row = let(tirx.min(self.element(0, j, side)[2], spec.rows - 1))
                scale = let(scale_at(self.operands, row, tirx.floordiv(group * spec.scale_groups, groups)))
                for i in range(_M):
                    for half in range(2):
                        slot = self.element(i, j, 2 * half + side)[0]
                        factor = load(thetas, (2 * i + half,)) * scale
                        term = factor * load(self.acc, (slot,)).astype("float32")
                        store(self.total, (slot,), load(self.total, (slot,)) + term)

    def each(self, body: Any) -> None:
        """Calls ``body(register, token, row)`` for every result that exists."""
        for i in range(_M):
            for j in range(_N):
                for part in range(4):
                    at, token, row = self.element(i, j, part)
                    with if_(tirx.all(token < self.n, row < self.spec.rows)), then():
                        body(at, token, row)

    def write_raw(self, at: int, token: Any, row: Any, group: Any) -> None:
        store(self.operands.out, (token, group, row), load(self.acc, (at,)))

    def write(self) -> None:
        def one(at: int, token: Any, row: Any) -> None:
            total = finished(self.operands, load(self.total, (at,)), token, row)
            store(self.operands.out, (token, row), total)

        self.each(one)
