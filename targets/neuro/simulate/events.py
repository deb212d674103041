"""Spikes: sending trains and words, receiving them, adding synapse rows to accumulators, reading out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.isa.fields import Length, Ref
from sdc.targets.neuro.simulate.core import Core, Loop, Slot
from sdc.targets.neuro.simulate.network import Message, concatenate

__all__ = ["accum", "fires", "readout", "recvw", "send", "sendw", "slot", "unpack_rows"]

SHORT_RUN = 256  # so many rows of 8-bit weights add up exactly in 16 bits, which is twice as fast as 32


def slot(
    core: Core, number: int, rows: Ref, stride: int, outputs: Length, group: int, bits: str, acc: Ref
) -> None:
    """Sets a synapse descriptor."""
    if group == 0:
        raise core.error("RANGE: a group has at least one channel")
    core.slots[number] = Slot(rows.address + core.bases[rows.base], stride, outputs, group, int(bits), acc)


def send(core: Core, counts: Ref, length: Length, coding: str, route: int, index: int) -> None:
    """Sends the spikes of the present time step."""
    count = core.length(length)
    values = core.i[core.words(counts, count)]
    axons = np.flatnonzero(fires(values, coding, core.loop))
    negative = values[axons] < 0 if coding != "binary" else np.zeros(len(axons), bool)
    core.events["sent"] += len(axons)
    core.post(core, core.route(route), Message("spike", axons + index, negative))


def accum(core: Core, tag: int, number: int, coding: str, sources: int) -> bool:
    """Takes one step's spikes and adds their synapse rows; False where a sender's marker is still missing."""
    loop, synapse = core.loop, core.slot(number)
    messages = _take(core, tag, sources, "spike")
    if messages is None:
        return False
    index, negative = concatenate(messages)
    core.events["spikes"] += len(index)
    if len(index):
        outputs = core.length(synapse.outputs)
        core.events["synops"] += len(index) * outputs
        _add_rows(core, synapse, index, negative, outputs, _step_weight(coding, loop))
    return True


def sendw(core: Core, source: Ref, length: Length, route: int, index: int) -> None:
    """Sends words."""
    count = core.length(length)
    words = core.n[core.words(source, count)].copy()
    core.post(core, core.route(route), Message("word", np.arange(count) + index, words))


def recvw(core: Core, target: Ref, length: Length, tag: int, sources: int) -> bool:
    """Takes one vector of words; False where a sender's marker is still missing."""
    messages = _take(core, tag, sources, "word")
    if messages is None:
        return False
    count = core.length(length)
    index, words = concatenate(messages)
    seen = np.bincount(index, minlength=count)
    if len(seen) > count or (seen != 1).any():
        wrong = int(np.flatnonzero(np.append(seen[:count] != 1, len(seen) > count))[0])
        raise core.error(f"MESSAGE: tag {tag}: word {wrong} of {count} came twice, is missing or is beyond")
    core.n[core.words(target, count)][index] = words
    return True


def readout(core: Core, y: Ref, acc: Ref, theta: Ref, scale: Ref, length: Length) -> None:
    """Adds one group's accumulators, scaled."""
    count = core.length(length)
    factor = core.f[core.words(theta, 1)] * core.f[core.words(scale, count)]
    core.f[core.words(y, count)] += factor * core.i[core.words(acc, count)].astype(np.float32)
    core.events["readouts"] += count


def _take(core: Core, tag: int, sources: int, kind: str) -> list[Message] | None:
    try:
        messages = core.inbox.take(tag, sources)
    except ValueError as error:
        raise core.error(f"MESSAGE: {error}") from error
    if messages is not None and any(message.kind != kind for message in messages):
        raise core.error(f"MESSAGE: tag {tag}: expected {kind} packets")
    return messages


def fires(values: NDArray, coding: str, loop: Loop) -> NDArray:
    """Which counts fire in the present time step."""
    step = loop.iteration
    if coding == "ternary":
        return np.abs(values) > step
    if coding == "bitwise":
        return (np.abs(values) >> step) & 1 > 0
    half = loop.count // 2
    return values > step if step < half else -values > step - half


def _step_weight(coding: str, loop: Loop) -> int:
    if coding == "bitwise":
        return 1 << loop.iteration
    return -1 if coding == "binary" and loop.iteration >= loop.count // 2 else 1


def _add_rows(
    core: Core, synapse: Slot, index: NDArray, negative: NDArray, outputs: int, weight: int
) -> None:
    """Adds or subtracts the rows of one step: runs of equal group and sign are summed, then weighed."""
    key = index // synapse.group * 2 + negative
    order = key.argsort(kind="stable")
    key = key[order]
    rows = _rows(core, synapse, index[order], outputs)
    first, last = int(key[0]) // 2, int(key[-1]) // 2
    region = Ref(synapse.acc.address + first * outputs, synapse.acc.base)
    acc = core.i[core.words(region, (last - first + 1) * outputs)].reshape(-1, outputs)
    starts = [0, *(np.flatnonzero(key[1:] != key[:-1]) + 1).tolist()]
    for start, end in zip(starts, [*starts[1:], len(key)], strict=True):
        short = end - start < SHORT_RUN and synapse.bits <= 8
        total = np.add.reduce(rows[start:end], axis=0, dtype=np.int16 if short else np.int32)
        if weight != 1:
            total = total * np.int32(weight)
        group, subtract = divmod(int(key[start]), 2)
        if subtract:
            acc[group - first] -= total
        else:
            acc[group - first] += total


def _rows(core: Core, synapse: Slot, axons: NDArray, outputs: int) -> NDArray:
    """Fetches the weight rows of axons: [spikes, outputs], signed."""
    size = (outputs * synapse.bits + 7) // 8
    last = int(axons.max())
    window = core.s[core.bytes(Ref(synapse.rows), last * synapse.stride + size)]
    if synapse.stride == size:
        packed: NDArray = window.reshape(last + 1, size).take(axons, axis=0)
    else:
        shape, strides = (last + 1, size), (synapse.stride, 1)
        packed = np.lib.stride_tricks.as_strided(window, shape, strides, writeable=False)[axons]
    return unpack_rows(packed, synapse.bits, outputs)


def unpack_rows(packed: NDArray, bits: int, outputs: int) -> NDArray:
    """Signed weights [rows, outputs] of packed rows, uint8 [rows, bytes]."""
    if bits == 8:
        return packed.view(np.int8)[:, :outputs]
    if bits == 16:
        return packed.view("<i2")[:, :outputs]
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    high = np.uint8(8 - bits)
    fields = (packed[..., None] >> shifts << high).view(np.int8) >> high.astype(np.int8)
    return fields.reshape(len(packed), -1)[:, :outputs]
