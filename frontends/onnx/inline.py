"""Weights that lie inside an ONNX file stay there, memory-mapped like external data.

Protobuf's own parser holds the whole file twice while it reads: the bytes, and the message made of them. Here
the file is mapped, the message is parsed without the large ``raw_data`` of the graph's initializers, and
these become tensors at their offsets. Wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import external_data

__all__ = ["InlineTensor", "load_mapped"]

LARGE = 4096  # bytes from which a weight stays in the file
GRAPH, INITIALIZER, NAME, RAW_DATA = 7, 5, 8, 9  # fields of ModelProto, GraphProto, TensorProto, TensorProto
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types

Span = tuple[int, int]


class InlineTensor(ir.ExternalTensor):
    """A weight at its place inside the model's own file."""


def load_mapped(path: Path) -> ir.Model:
    """What ``onnx_ir.load`` gives, with the large weights in the file left where they are.

    Raises:
        Exception: Those of ``onnx_ir.load``, where the file is damaged.
    """
    slim = _slim(path)
    if slim is None:
        return ir.load(path)
    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(slim.message))
    external_data.set_base_dir(model.graph, path.parent)
    file = path.resolve()
    for name, (start, end) in slim.weights.items():
        value = model.graph.initializers[name]
        stub = value.const_value
        if stub is None:
            raise KeyError(name)
        value.const_value = InlineTensor(
            file.name, start, end - start, stub.dtype, shape=stub.shape, name=name, base_dir=file.parent
        )
    return model


@dataclass
class _Slim:
    """A message without its large weights, and where in the file those are."""

    message: bytes
    weights: dict[str, Span]


def _slim(path: Path) -> _Slim | None:
    """None where the file cannot be walked, or has nothing large; protobuf says what is wrong."""
    weights: dict[str, Span] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parts = []
            for number, whole, payload in _fields(data, (0, len(data))):
                if number == GRAPH and payload is not None:
                    parts.append(_message(GRAPH, _graph(data, payload, weights)))
                else:
                    parts.append(data[slice(*whole)])
    except ValueError:  # also of an empty file, which cannot be mapped
        return None
    return _Slim(b"".join(parts), weights) if weights else None


def _graph(data: mmap.mmap, span: Span, weights: dict[str, Span]) -> bytes:
    parts = []
    for number, whole, payload in _fields(data, span):
        if number == INITIALIZER and payload is not None:
            parts.append(_message(INITIALIZER, _tensor(data, payload, weights)))
        else:
            parts.append(data[slice(*whole)])
    return b"".join(parts)


def _tensor(data: mmap.mmap, span: Span, weights: dict[str, Span]) -> bytes:
    """A tensor, without its data where these are large and it has a name."""
    found = list(_fields(data, span))
    names = [payload for number, _, payload in found if number == NAME]
    raws = [payload for number, _, payload in found if number == RAW_DATA]
    if (
        len(names) != 1
        or len(raws) != 1
        or names[0] is None
        or raws[0] is None
        or raws[0][1] - raws[0][0] < LARGE
    ):
        return data[slice(*span)]
    weights[data[slice(*names[0])].decode()] = raws[0]
    return b"".join(data[slice(*whole)] for number, whole, _ in found if number != RAW_DATA)


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span, Span | None]]:
    """Number, place, and place of the payload (None where it is a number) of each field of a message.

    Raises:
        ValueError: The bytes are no such sequence.
    """
    at, end = span
    while at < end:
        start = at
        tag, at = _varint(data, at, end)
        kind, payload = tag & 7, None
        if kind == VARINT:
            _, at = _varint(data, at, end)
        elif kind == LENGTH:
            length, at = _varint(data, at, end)
            payload = (at, at + length)
            at += length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field ends behind its message")
        yield tag >> 3, (start, at), payload


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number in base 128, the least digit first, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= end:
            break
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number does not end")


def _message(number: int, payload: bytes) -> bytes:
    """A field that holds a message."""
    return _encoded(number << 3 | LENGTH) + _encoded(len(payload)) + payload


def _encoded(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
