"""Weights on disk: a safetensors file with tensors at multiples of 64 bytes, so that programs run from it.

The format (github.com/huggingface/safetensors, README, "Format"): eight bytes of header length, a JSON
header, then the tensors without holes. Gaps are filled with tensors of their own, named ``_pad.N``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sdc.errors import CorruptArtefactError
from sdc.ir.params import Param
from sdc.targets.base import Progress

__all__ = ["ALIGNMENT", "map_weights", "write_weights"]

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
    """Writes parameters in order; each is computed, written and dropped before the next.

    Raises:
        NumericsError: A weight holds NaN or infinity.
    """
    header = _header(params)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for number, (name, param) in enumerate(params.items()):
            progress(f"weights: {name}", number, len(params))
            data = param.value().tobytes()
            file.write(data + bytes(-len(data) % ALIGNMENT))
    progress("weights", len(params), len(params))


def _header(params: Mapping[str, Param]) -> bytes:
    """The JSON header, padded with spaces so that data begin at a multiple of ALIGNMENT."""
    entries: dict[str, Any] = {}
    at = 0
    for number, (name, param) in enumerate(params.items()):
        size = int(np.prod(param.shape, dtype=np.int64)) * _DTYPES[_NAMES[param.dtype]].itemsize
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
    try:
        raw = np.memmap(path, np.uint8, "c")
        size = int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8 : 8 + size].tobytes())
        start = 8 + size
        return {
            name: _view(raw, entry, start) for name, entry in header.items() if not name.startswith("_pad.")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtefactError(
            f"{path}: damaged weights file ({error}); compile the model again"
        ) from error


def _view(raw: NDArray, entry: dict[str, Any], start: int) -> NDArray:
    first, last = entry["data_offsets"]
    return raw[start + first : start + last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
