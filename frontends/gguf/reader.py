"""Opens a Llama-architecture GGUF file: facts, metadata, and tensors that stay on disk until read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from sdc.errors import InvalidModelError, ModelError
from sdc.frontends.gguf.layout import read_facts, tensors

__all__ = ["GgufModel", "open_gguf"]

SUPPORTED = ("llama",)


class GgufModel:
    """An open file: facts, metadata, and tensors that are dequantised one at a time.

    Raises:
        InvalidModelError: Metadata or tensors are missing or contradict each other.
        ModelError: The file asks for something that is not supported, or holds tensors of unknown meaning.
    """

    def __init__(self, path: Path, reader: Any) -> None:
        self.path = path
        self._fields = reader.fields
        self._tensors = {t.name: t for t in reader.tensors}
        architecture = self.field("general.architecture", "")
        if architecture not in SUPPORTED:
            raise ModelError(
                f'{path}: architecture "{architecture}" is not supported '
                f"(supported: {', '.join(SUPPORTED)}); export the model to ONNX instead"
            )
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise InvalidModelError(f'{path}: tensor "token_embd.weight" is missing; the file is incomplete')
        self.facts = read_facts(path, self.field, vocab=int(embedding.shape[1]))
        self._check_tensors()

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value, or the default where the file does not have it."""
        if key not in self._fields:
            return default
        try:
            return self._fields[key].contents()
        except (ValueError, IndexError) as error:
            raise InvalidModelError(f'{self.path}: metadata "{key}" is damaged ({error})') from error

    def has(self, name: str) -> bool:
        """Whether the file holds a tensor of this name."""
        return name in self._tensors

    def __len__(self) -> int:
        """How many tensors the file holds."""
        return len(self._tensors)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A tensor in row-major order, dequantised to float32.

        Raises:
            ModelError: It is stored in a type that cannot be read.
        """
        entry = self._tensors[name]
        try:
            values = gguf.dequantize(entry.data, entry.tensor_type)
        except NotImplementedError as error:
            raise ModelError(
                f'{self.path}: tensor "{name}" is stored as {entry.tensor_type.name}, which cannot be read; '
                "use a file in another quantisation (F16, Q8_0, Q4_K_M ...)"
            ) from error
        return values.reshape(_shape(entry)).astype(np.float32, copy=False)

    def _check_tensors(self) -> None:
        known = set()
        for name, shape, needed in tensors(self.facts):
            entry = self._tensors.get(name)
            if entry is None and needed:
                raise InvalidModelError(f'{self.path}: tensor "{name}" is missing; the file is incomplete')
            if entry is not None and _shape(entry) != shape:
                raise InvalidModelError(
                    f'{self.path}: tensor "{name}" is {list(_shape(entry))}, '
                    f"but the metadata ask for {list(shape)}"
                )
            known.add(name)
        unknown = sorted(set(self._tensors) - known)
        if unknown:
            shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise ModelError(
                f"{self.path}: these tensors are no part of a Llama that is understood: {shown}; export the "
                "model to ONNX instead"
            )


def _shape(entry: Any) -> tuple[int, ...]:
    """A tensor's shape in row-major order; GGUF files have the fastest axis first."""
    return tuple(int(d) for d in entry.shape)[::-1]


def open_gguf(path: str | Path) -> GgufModel:
    """Opens a GGUF file; tensors stay memory-mapped.

    Raises:
        InvalidModelError: There is no such file, or it is damaged.
        ModelError: Its architecture is not supported.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidModelError(f"{path}: there is no such file")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise InvalidModelError(f"{path}: not a complete GGUF file ({error}); fetch it again") from error
    return GgufModel(path, reader)
