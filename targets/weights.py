"""Weights on disk: a safetensors file with tensors at multiples of 64 bytes, so that programs run from it.

The format (github.com/huggingface/safetensors, README, "Format"): eight bytes of header length, a JSON
header, then the tensors without holes. Gaps are filled with tensors of their own, named ``_pad.N``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sdc.errors import CorruptArtefactError
from sdc.ir.params import Param
from sdc.targets.base import Progress
from sdc.targets.pages import available_memory, zeroed
from sdc.threads import ahead, cpus

__all__ = ["ALIGNMENT", "load_data", "map_weights", "offsets", "write_weights"]

ALIGNMENT = 64

_NAMES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "bool": "BOOL",
}
_DTYPES = {code: np.dtype(getattr(ml_dtypes, name, name)) for name, code in _NAMES.items()}


def write_weights(path: Path, params: Mapping[str, Param], progress: Progress) -> None:
    """Writes parameters in order; each is dropped when it is written, and the next few are in the making.

    Raises:
        NumericsError: A weight holds NaN or infinity.
    """
    header = _header(params)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        # Twice as many as processors: the scales of a weight wait for those who compute its integers.
        values = ahead(lambda param: param.value().tobytes(), params.values(), 2 * cpus())
        for number, (name, data) in enumerate(zip(params, values, strict=True)):
            progress(f"weights: {name}", number, len(params))
            file.write(data)
            file.write(bytes(-len(data) % ALIGNMENT))
    progress("weights", len(params), len(params))


def offsets(tensors: Iterable[tuple[tuple[int, ...], str]]) -> list[int]:
    """Where tensors (shape, dtype) that follow each other begin, each at a multiple of ALIGNMENT."""
    found, at = [], 0
    for shape, dtype in tensors:
        found.append(at)
        at += -(-_bytes(shape, dtype) // ALIGNMENT) * ALIGNMENT
    return found


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * _DTYPES[_NAMES[dtype]].itemsize


def _header(params: Mapping[str, Param]) -> bytes:
    """The JSON header, padded with spaces so that data begin at a multiple of ALIGNMENT."""
    entries: dict[str, Any] = {}
    at = 0
    for number, (name, param) in enumerate(params.items()):
        size = _bytes(param.shape, param.dtype)
        entries[name] = {
            "dtype": _NAMES[param.dtype],
            "shape": list(param.shape),
            "data_offsets": [at, at + size],
        }
        at += size
        gap = -size % ALIGNMENT
        if gap:
            entries[f"_pad.{number}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [at, at + gap]}
            at += gap
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-(len(text) + 8) % ALIGNMENT)


def map_weights(path: Path) -> dict[str, NDArray]:
    """The tensors of a file written by :func:`write_weights`, memory-mapped.

    The mapping is private (copy on write): DLPack hands on only writable memory; nothing reaches the file.

    Raises:
        CorruptArtefactError: The file is not what its header says.
    """
    return _views(*_open(path), path)


def load_data(path: Path) -> tuple[NDArray, dict[str, NDArray]]:
    """All data of a file as bytes (in the order of :func:`offsets`), and the tensors as views of them.

    The bytes are a copy in huge pages; where that would take more than half of the memory at hand, the file
    is mapped.

    Raises:
        CorruptArtefactError: As :func:`map_weights`.
    """
    data, header = _open(path)
    if 2 * data.size <= available_memory():
        mapped, data = data, zeroed(data.size)
        with path.open("rb") as file:  # not from the mapping, whose pages would count as well
            file.seek(-mapped.size, os.SEEK_END)
            file.readinto(data.data)
    return data, _views(data, header, path)


def _open(path: Path) -> tuple[NDArray, dict[str, Any]]:
    """The mapped data of a file, and its header."""
    try:
        raw = np.memmap(path, np.uint8, "c")
        size = int.from_bytes(raw[:8].tobytes(), "little")
        return raw[8 + size :], dict(json.loads(raw[8 : 8 + size].tobytes()))
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _views(data: NDArray, header: Mapping[str, Any], path: Path) -> dict[str, NDArray]:
    try:
        return {name: _view(data, e) for name, e in header.items() if not name.startswith("_pad.")}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CorruptArtefactError:
    return CorruptArtefactError(f"{path}: damaged weights file ({error}); compile the model again")


def _view(data: NDArray, entry: dict[str, Any]) -> NDArray:
    first, last = entry["data_offsets"]
    return data[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
