"""The next token, chosen from the logits where they lie.

After a token's weights have passed through the caches, Python and NumPy begin from memory: choosing there
took a tenth of a token's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.ir.drawing import COLDEST, weight_bits
from sdc.targets.cpu.emit import (
    broadcast,
    const,
    declare,
    if_,
    lane_type,
    let,
    load,
    local,
    loop,
    otherwise,
    prim_func,
    reduce_smax,
    scratch,
    select,
    store,
    then,
    vector_range,
)
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.rows import exp

__all__ = ["sample"]

Expr = Any

_BLOCK = 256  # tokens whose weights are summed before a draw looks at one of them
_CUTS = (1e-2, 1e-3, 1e-4)  # of the likeliest token's weight
_SIGN = 0x7FFFFFFF  # all bits of a float32 but its sign
_INFINITE = 0x7F800000  # the bits of infinity; those of NaN are above


def sample(vocab: int, isa: Isa) -> tirx.PrimFunc:
    """The function ``(logits [vocab] float32, settings [3] float64, token [1] int64)``.

    Settings are temperature, top-p and a uniform number in [0, 1): the token is that of
    :func:`sdc.ir.drawing.draw`, the likeliest at temperature 0, and -1 where a logit is NaN or infinite.
    """
    return prim_func("sample", lambda: _Sampling(vocab, isa.lanes).emit())


class _Sampling:
    def __init__(self, vocab: int, lanes: int) -> None:
        self.vocab, self.lanes = vocab, lanes
        self.most = 2.0 ** weight_bits(vocab)  # the likeliest token's weight
        self.logits = declare("logits", (vocab,), "float32")
        settings = declare("settings", (3,), "float64")
        self.token = declare("token", (1,), "int64")
        self.temperature, self.top_p, self.uniform = (let(load(settings, (i,))) for i in range(3))

    def emit(self) -> None:
        """The function's body."""
        top, worst = self.ends()
        self.choose(tirx.const(-1, "int32"))
        with if_(worst < tirx.const(_INFINITE, "int32")), then(), if_(self.temperature == 0.0):
            with then():
                self.choose(self.first(top))
            with otherwise():
                self.draw(top)

    def choose(self, index: Expr) -> None:
        """Writes the result."""
        store(self.token, (0,), index.astype("int64"))

    def sweep(self, first: Any, count: int, body: Callable[[Any, int], None]) -> None:
        """``body(index, lanes)`` over ``count`` tokens, a vector at a time and the rest one by one."""
        whole = count // self.lanes * self.lanes
        if whole:
            with loop(whole // self.lanes) as i:
                body(first + i * self.lanes, self.lanes)
        if count > whole:
            with loop(count - whole) as i:
                body(first + whole + i, 1)

    def ends(self) -> tuple[Expr, Expr]:
        """The largest logit, and the largest bits of any: at least infinity's where one is no number."""
        tops, bits = local(self.lanes, "float32"), local(self.lanes, "int32")
        store(tops, (0,), broadcast(load(self.logits, (0,)), self.lanes), self.lanes)
        store(bits, (0,), const(0, "int32", self.lanes), self.lanes)

        def body(at: Any, lanes: int) -> None:
            x, before = let(load(self.logits, (at,), lanes)), let(load(tops, (0,), lanes))
            store(tops, (0,), select(x > before, x, before), lanes)
            mine = tirx.bitwise_and(_bits(x, lanes), const(_SIGN, "int32", lanes))
            store(bits, (0,), tirx.max(mine, load(bits, (0,), lanes)), lanes)

        self.sweep(0, self.vocab, body)
        top = let(load(tops, (0,)))
        for lane in range(1, self.lanes):
            other = let(load(tops, (lane,)))
            top = let(select(other > top, other, top))
        return top, let(reduce_smax(load(bits, (0,), self.lanes)))

    def first(self, top: Expr) -> Expr:
        """The first token with the largest logit."""
        found = local(self.lanes, "int32")
        store(found, (0,), const(-self.vocab, "int32", self.lanes), self.lanes)

        def body(at: Any, lanes: int) -> None:
            index = const(0, "int32", lanes) - vector_range(at, lanes)  # the largest is the first
            is_top = load(self.logits, (at,), lanes) == broadcast(top, lanes)
            before = let(load(found, (0,), lanes))
            store(
                found,
                (0,),
                tirx.max(before, select(is_top, index, const(-self.vocab, "int32", lanes))),
                lanes,
            )

        self.sweep(0, self.vocab, body)
        return tirx.const(0, "int32") - reduce_smax(load(found, (0,), self.lanes))

    def draw(self, top: Expr) -> None:
        """A token by its weight, an integer in float32; sums are integers in float64, exact in any order."""
        self.weights = scratch((self.vocab,), "float32")
        self.sums = scratch((-(-self.vocab // _BLOCK),), "float64")
        total = self.weigh(top)
        with if_(self.top_p < 1.0):
            with then():
                _Nucleus(self, total).draw()
            with otherwise():
                self.draw_from_all(total)

    def weigh(self, top: Expr) -> Expr:
        """Weights, their sums in blocks, and the sum of all."""
        coldest = let(tirx.max(self.temperature, tirx.const(COLDEST, "float64")))
        inverse = let((tirx.const(1.0, "float64") / coldest).astype("float32"))
        total = _cell("float64", 0.0)

        def weigh_block(number: Any, size: int) -> None:
            partial = local(self.lanes, "float64")
            store(partial, (0,), const(0.0, "float64", self.lanes), self.lanes)

            def body(at: Any, lanes: int) -> None:
                below = load(self.logits, (at,), lanes) - broadcast(top, lanes)
                share = exp(below * broadcast(inverse, lanes), lanes)
                weight = let(tirx.nearbyint(share * const(self.most, "float32", lanes)))
                store(self.weights, (at,), weight, lanes)
                mine = weight.astype(lane_type("float64", lanes))
                store(partial, (0,), load(partial, (0,), lanes) + mine, lanes)

            self.sweep(number * _BLOCK, size, body)
            mass = _cell("float64", 0.0)
            for lane in range(self.lanes):
                _add(mass, load(partial, (lane,)))
            store(self.sums, (number,), load(mass, (0,)))
            _add(total, load(mass, (0,)))

        whole, rest = divmod(self.vocab, _BLOCK)
        if whole:
            with loop(whole) as number:
                weigh_block(number, _BLOCK)
        if rest:
            weigh_block(whole, rest)
        return let(load(total, (0,)))

    def draw_from_all(self, total: Expr) -> None:
        """Steps over blocks, then over tokens, until the drawn mass is passed."""
        drawn = let(self.uniform * total)
        passed, at = _cell("float64", 0.0), _cell("int32", 0)
        for masses, count in ((self.sums, -(-self.vocab // _BLOCK)), (self.weights, self.vocab)):
            mass = load(masses, (at[0],)).astype("float64")
            with T.While(tirx.And(at[0] < count - 1, passed[0] + mass <= drawn)):
                _add(passed, mass)
                _add(at, tirx.const(1, "int32"))
            if masses is self.sums:
                store(at, (0,), at[0] * _BLOCK)
        self.choose(at[0])


class _Nucleus:
    """The smallest set of tokens with mass top-p: all above a threshold, and as many at it as are needed.

    Those above a cut hold the set where they have its mass; above (1 - top-p) / V they do but for rounding,
    as all below weigh less than 1 - top-p together. So a few hundred tokens are looked at, not a whole
    vocabulary. Weights are not negative: their bits are in the order of their values, and the threshold is
    found by halving.
    """

    def __init__(self, sampling: _Sampling, total: Expr) -> None:
        self.of = sampling
        self.wanted = let(tirx.ceil(sampling.top_p * total))
        self.tokens = scratch((sampling.vocab,), "int32")
        self.found = scratch((sampling.vocab + sampling.lanes,), "float32")  # their weights, then zeros
        self.count, self.mass, self.cut = _cell("int32", 0), _cell("float64", 0.0), _cell("float32", 0.0)

    def draw(self) -> None:
        """Draws one of them, in the order of their numbers."""
        self.collect()
        threshold = self.threshold()
        above = let(self.mass_from(threshold + 1))
        each = let(tirx.reinterpret("float32", threshold).astype("float64"))
        ties = let(tirx.ceil((self.wanted - above) / each))
        drawn = let(self.of.uniform * (above + ties * each))
        passed, left, at = _cell("float64", 0.0), _cell("float64", ties), _cell("int32", 0)
        with T.While(at[0] < self.count[0]):
            weight = let(load(self.found, (at[0],)))
            is_tie = let((_bits(weight, 1) == threshold).astype("int32"))
            taken = tirx.Or(_bits(weight, 1) > threshold, tirx.And(is_tie == 1, left[0] > 0.0))
            with if_(taken), then():
                self.of.choose(self.tokens[at[0]])
                _add(passed, weight.astype("float64"))
                _add(left, tirx.const(0.0, "float64") - is_tie.astype("float64"))
                with if_(passed[0] > drawn), then():
                    store(at, (0,), self.count[0])
            _add(at, tirx.const(1, "int32"))

    def collect(self) -> None:
        """Tokens above the first cut that leaves enough mass."""
        cuts = local(len(_CUTS) + 2, "float32")
        last = (tirx.const(1.0, "float64") - self.of.top_p) * (self.of.most / self.of.vocab)
        parts = [tirx.const(cut * self.of.most, "float32") for cut in _CUTS]
        for i, cut in enumerate([*parts, last.astype("float32"), tirx.const(1.0, "float32")]):
            store(cuts, (i,), cut)
        attempt = _cell("int32", 0)
        with T.While(self.mass[0] < self.wanted):
            store(self.cut, (0,), load(cuts, (attempt[0],)))
            store(self.count, (0,), tirx.const(0, "int32"))
            store(self.mass, (0,), tirx.const(0.0, "float64"))
            self.of.sweep(0, self.of.vocab, self.look)
            _add(attempt, tirx.const(1, "int32"))
        lanes = self.of.lanes
        store(self.found, (self.count[0],), const(0.0, "float32", lanes), lanes)

    def look(self, at: Any, lanes: int) -> None:
        """Takes those of some neighbours that are above the cut; mostly none is."""
        bits = _bits(load(self.of.weights, (at,), lanes), lanes)
        least = _bits(self.cut[0], 1)
        with if_(reduce_smax(bits) >= least), then(), loop(lanes) as lane:
            weight = let(load(self.of.weights, (at + lane,)))
            with if_(_bits(weight, 1) >= least), then():
                store(self.tokens, (self.count[0],), at + lane)
                store(self.found, (self.count[0],), weight)
                _add(self.count, tirx.const(1, "int32"))
                _add(self.mass, weight.astype("float64"))

    def threshold(self) -> Expr:
        """Bits of the largest weight such that those from it on have the mass."""
        low, high = _cell("int32", _bits(self.cut[0], 1)), _cell("int32", 0)
        store(high, (0,), _bits(tirx.const(self.of.most, "float32"), 1) + 1)
        with T.While(high[0] - low[0] > 1):
            middle = let(low[0] + tirx.shift_right(high[0] - low[0], tirx.const(1, "int32")))
            with if_(self.mass_from(middle) >= self.wanted):
                with then():
                    store(low, (0,), middle)
                with otherwise():
                    store(high, (0,), middle)
        return let(low[0])

    def mass_from(self, bits: Expr) -> Expr:
        """Of the tokens whose weights have at least these bits."""
        lanes = self.of.lanes
        partial = local(lanes, "float64")
        store(partial, (0,), const(0.0, "float64", lanes), lanes)
        with loop(tirx.floordiv(self.count[0] + (lanes - 1), lanes)) as i:
            weights = let(load(self.found, (i * lanes,), lanes))
            is_in = _bits(weights, lanes) >= broadcast(bits, lanes)
            kept = select(is_in, weights, const(0.0, "float32", lanes)).astype(lane_type("float64", lanes))
            store(partial, (0,), load(partial, (0,), lanes) + kept, lanes)
        mass = _cell("float64", 0.0)
        for lane in range(lanes):
            _add(mass, load(partial, (lane,)))
        return load(mass, (0,))


def _bits(value: Expr, lanes: int) -> Expr:
    return tirx.reinterpret(lane_type("int32", lanes), value)


def _cell(dtype: str, value: Any) -> Any:
    """A variable."""
    made = local(1, dtype)
    store(made, (0,), tirx.const(value, dtype) if isinstance(value, int | float) else value)
    return made


def _add(cell: Any, value: Expr) -> None:
    store(cell, (0,), load(cell, (0,)) + value)
