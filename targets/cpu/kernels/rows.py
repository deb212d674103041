"""Steps on one token's channels for the fused encoders: norms, gated activations, Hadamard, spike encode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from sdc.ir.float32 import EXP_COEFFICIENTS, EXP_LN2, EXP_LOG2E, EXP_RANGE, SUM_LANES
from sdc.targets.cpu.emit import (
    broadcast,
    const,
    fit,
    if_,
    lane_type,
    let,
    load,
    local,
    loop,
    otherwise,
    reduce_smax,
    rounded,
    select,
    store,
    then,
)
from sdc.targets.fused.specs import Encoder, limits

__all__ = [
    "Encoder",
    "activation",
    "encode_row",
    "exp",
    "exps",
    "hadamard_row",
    "lane_sums",
    "layer_norm",
    "limits",
    "rms_norm",
    "sum_lanes",
]

Expr = Any
Write = Callable[[Any, Expr, int], None]


def exp(x: Expr, lanes: int) -> Expr:
    """e^x, float32 x lanes: the bits of :func:`sdc.ir.float32.exp`.

    LLVM would call the C library once per lane instead.
    """
    return exps([x], lanes)[0]


def exps(values: Sequence[Expr], lanes: int) -> list[Expr]:
    """:func:`exp` of several vectors, a step of all before the next step of any.

    Each step waits for the one before; a processor does not look far enough ahead to find the next vector's.
    """

    def number(value: float) -> Expr:
        return const(value, "float32", lanes)

    def each(step: Callable[..., Expr], *given: Sequence[Expr]) -> list[Expr]:
        return [let(step(*one)) for one in zip(*given, strict=True)]

    low, high = (number(end) for end in EXP_RANGE)  # a choice, not a minimum, lets NaN pass
    bounded = each(lambda x: select(x < low, low, x), [let(x) for x in values])
    inside = each(lambda x: select(x > high, high, x), bounded)
    n = each(lambda x: tirx.nearbyint(x * number(EXP_LOG2E)), inside)
    r = each(lambda x, n: x - rounded(n * number(EXP_LN2[0])) - rounded(n * number(EXP_LN2[1])), inside, n)
    y = [number(EXP_COEFFICIENTS[0]) for _ in values]
    for coefficient in EXP_COEFFICIENTS[1:]:
        y = each(lambda y, r, c=coefficient: rounded(y * r) + number(c), y, r)
    y = each(lambda y, r: rounded(y * r * r) + r + number(1.0), y, r)
    whole = each(lambda n: n.astype(lane_type("int32", lanes)), n)
    half = each(lambda n: tirx.shift_right(n, const(1, "int32", lanes)), whole)
    return [
        rounded(y * _power_of_two(h, lanes) * _power_of_two(n - h, lanes))
        for y, h, n in zip(y, half, whole, strict=True)
    ]


def _power_of_two(n: Expr, lanes: int) -> Expr:
    bits = tirx.shift_left(n + const(127, "int32", lanes), const(23, "int32", lanes))
    return tirx.reinterpret(lane_type("float32", lanes), bits)


def activation(name: str, x: Expr, lanes: int) -> Expr:
    """``silu``: x / (1 + e^-x) (Elfwing et al., arXiv 1702.03118)."""
    if name != "silu":
        raise ValueError(f"no fused activation {name!r}")
    return x / (const(1.0, "float32", lanes) + exp(const(0.0, "float32", lanes) - x, lanes))


def _sum(size: int, lanes: int, term: Callable[[Any, int], Expr]) -> Expr:
    """Sum of ``term(index, lanes)`` over a row, in the order of :func:`sdc.ir.float32.lane_sum`."""
    partial = lane_sums(lanes)
    whole = size // SUM_LANES

    def add(step: Any, end: int) -> None:
        for part in range(0, end, lanes):
            before = load(partial, (part,), lanes)
            store(partial, (part,), before + rounded(term(step * SUM_LANES + part, lanes)), lanes)

    with loop(whole) as i:
        add(i, SUM_LANES)
    add(whole, size % SUM_LANES)
    return sum_lanes(partial)


def lane_sums(lanes: int) -> Any:
    """Partial sums of :func:`sdc.ir.float32.lane_sum`, all zero."""
    partial = local(SUM_LANES, "float32")
    for part in range(0, SUM_LANES, lanes):
        store(partial, (part,), const(0.0, "float32", lanes), lanes)
    return partial


def sum_lanes(partial: Any) -> Expr:
    """The sum of the partial sums, in pairs."""
    values = [load(partial, (lane,)) for lane in range(SUM_LANES)]
    while len(values) > 1:
        values = [let(a + b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return let(values[0])


def rms_norm(row: Any, size: int, gain: Any, epsilon: float, lanes: int) -> None:
    """row = row * (1 / sqrt(mean(row^2) + epsilon)) * gain: the bits of :func:`sdc.ir.float32.rms_norm`."""
    lanes = fit(size, lanes)
    squares = _sum(size, lanes, lambda i, n: load(row, (i,), n) * load(row, (i,), n))
    inverse = _inverse_root(squares / const(size, "float32"), epsilon)
    with loop(size // lanes) as i:
        at = (i * lanes,)
        store(row, at, load(row, at, lanes) * broadcast(inverse, lanes) * load(gain, at, lanes), lanes)


def layer_norm(row: Any, size: int, gain: Any, shift: Any, epsilon: float, lanes: int) -> None:
    """row = (row - mean) / sqrt(variance + epsilon) * gain + shift (Ba et al., arXiv 1607.06450)."""
    lanes = fit(size, lanes)
    mean = let(_sum(size, lanes, lambda i, n: load(row, (i,), n)) / const(size, "float32"))
    with loop(size // lanes) as i:
        store(row, (i * lanes,), load(row, (i * lanes,), lanes) - broadcast(mean, lanes), lanes)
    squares = _sum(size, lanes, lambda i, n: load(row, (i,), n) * load(row, (i,), n))
    inverse = _inverse_root(squares / const(size, "float32"), epsilon)
    with loop(size // lanes) as i:
        at = (i * lanes,)
        scaled = load(row, at, lanes) * broadcast(inverse, lanes) * load(gain, at, lanes)
        store(row, at, rounded(scaled) + load(shift, at, lanes), lanes)


def _inverse_root(mean: Expr, epsilon: float) -> Expr:
    return let(const(1.0, "float32") / tirx.sqrt(mean + const(epsilon, "float32")))


def hadamard_row(row: Any, size: int, signs: Any, block: int, lanes: int) -> None:
    """row = H (signs * row) per block, butterflies with strides 1, 2, 4, ... as the reference has them.

    Every stage goes through a small array that LLVM keeps in registers: TVM's simplifier would substitute
    named values into each other, and the expression doubles with every stage.
    """
    lanes = fit(size, lanes)
    span = max(block, lanes)
    work = local(span, "float32")
    with loop(size // span) as i:
        base = i * span
        for at in range(0, span, lanes):
            signed = load(row, (base + at,), lanes) * load(signs, (base + at,), lanes)
            store(work, (at,), signed, lanes)
        stride = 1
        while stride < block:
            _butterflies(work, span, stride, lanes)
            stride *= 2
        for at in range(0, span, lanes):
            store(row, (base + at,), load(work, (at,), lanes), lanes)


def _butterflies(work: Any, span: int, stride: int, lanes: int) -> None:
    if stride < lanes:
        for at in range(0, span, lanes):
            store(work, (at,), _within(load(work, (at,), lanes), stride, lanes), lanes)
        return
    for at in range(0, span, lanes):
        if not at & stride:
            top, bottom = let(load(work, (at,), lanes)), let(load(work, (at + stride,), lanes))
            store(work, (at,), top + bottom, lanes)
            store(work, (at + stride,), top - bottom, lanes)


def _within(x: Expr, stride: int, lanes: int) -> Expr:
    """One stage inside a vector: each lane's partner is lane ^ stride; lower lanes of a pair change sign."""
    partner = tirx.Shuffle([x], [tirx.const(lane ^ stride, "int32") for lane in range(lanes)])
    number = tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), lanes)
    shift = const(31 - (stride.bit_length() - 1), "int32", lanes)
    sign = tirx.shift_left(number, shift) & const(-(2**31), "int32", lanes)
    bits = tirx.bitwise_xor(tirx.reinterpret(lane_type("int32", lanes), x), sign)
    return partner + tirx.reinterpret(lane_type("float32", lanes), bits)


def encode_row(
    row: Any,
    size: int,
    encoder: Encoder,
    numbers: Any,
    lanes: int,
    write: Write,
    write_theta: Callable[[Any, Expr], None],
) -> None:
    """Thresholds and counts of a row, bit-equal to the reference.

    Magnitudes are compared as integers, where NaN lies above infinity and infinity above all numbers: so both
    reach the threshold. Division and rounding are IEEE float32.

    Args:
        numbers: The encoder's :func:`limits`, a buffer or (buffer, row).
        write: Called with (channel, counts as int32 x lanes, lanes).
        write_theta: Called with (group, threshold).
    """
    group = encoder.group
    lanes = fit(group, lanes)
    buffer, *at = numbers if isinstance(numbers, tuple) else (numbers,)
    factor, levels, zone = (let(load(buffer, (*at, i))) for i in range(3))
    top = local(lanes, "int32")
    with loop(size // group) as g:
        store(top, (0,), const(0, "int32", lanes), lanes)
        with loop(group // lanes) as i:
            bits = tirx.reinterpret(lane_type("int32", lanes), load(row, (g * group + i * lanes,), lanes))
            magnitude = let(bits & const(0x7FFFFFFF, "int32", lanes))
            store(top, (0,), tirx.max(load(top, (0,), lanes), magnitude), lanes)
        largest = let(reduce_smax(load(top, (0,), lanes)))
        theta = let(tirx.reinterpret("float32", largest) * factor)
        if encoder.floored:  # a choice, not a maximum, lets NaN pass
            least = let(load(buffer, (*at, 3)))
            theta = let(tirx.Select(theta < least, least, theta))
        write_theta(g, theta)
        usable = tirx.all(theta > const(0.0, "float32"), theta < tirx.infinity("float32"))
        with if_(usable):
            with then(), loop(group // lanes) as i:
                channel = g * group + i * lanes
                x = let(load(row, (channel,), lanes))
                write(channel, _counts(x, theta, levels, zone, encoder, lanes), lanes)
            with otherwise(), loop(group // lanes) as i:
                write(g * group + i * lanes, const(0, "int32", lanes), lanes)


def _counts(x: Expr, theta: Expr, levels: Expr, zone: Expr, encoder: Encoder, lanes: int) -> Expr:
    limit = broadcast(theta, lanes)
    high, zero = let(broadcast(levels, lanes)), const(0.0, "float32", lanes)
    nearest = let(tirx.nearbyint(x / limit))
    clipped = tirx.max(tirx.min(nearest, high), zero - high if encoder.signed else zero)
    if encoder.zoned:
        silent = tirx.abs(x) < broadcast(let(zone * theta), lanes)
        clipped = select(silent, zero, let(clipped))
    return clipped.astype(lane_type("int32", lanes))
