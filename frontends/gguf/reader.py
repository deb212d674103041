"""Reads the facts and tensors of a Llama-architecture GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from sdc.errors import InvalidModelError, ModelError

__all__ = ["GgufModel", "LlamaFacts", "open_gguf"]

SUPPORTED = ("llama",)


@dataclass(frozen=True)
class LlamaFacts:
    """Hyperparameters, by the keys of the GGUF specification's ``llama`` section."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    rms_epsilon: float
    rope_base: float
    rope_dim: int


class GgufModel:
    """An open file: facts, metadata, and tensors that are dequantised one at a time."""

    def __init__(self, path: Path, reader: Any) -> None:
        self.path = path
        self._fields = reader.fields
        self._tensors = {t.name: t for t in reader.tensors}
        self.facts = self._facts()

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value, or the default where the file does not have it."""
        return self._fields[key].contents() if key in self._fields else default

    def has(self, name: str) -> bool:
        """Whether the file holds a tensor of this name."""
        return name in self._tensors

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A tensor in row-major order, dequantised to float32.

        Raises:
            InvalidModelError: The file does not hold it, or holds it in a type that cannot be read.
        """
        if name not in self._tensors:
            raise InvalidModelError(f'{self.path}: tensor "{name}" is missing; the file is incomplete')
        entry = self._tensors[name]
        shape = [int(d) for d in entry.shape][::-1]
        try:
            return (
                gguf.dequantize(entry.data, entry.tensor_type).reshape(shape).astype(np.float32, copy=False)
            )
        except NotImplementedError as error:
            raise InvalidModelError(
                f'{self.path}: tensor "{name}" is stored as {entry.tensor_type.name}, which cannot be read'
            ) from error

    def _facts(self) -> LlamaFacts:
        architecture = self.field("general.architecture", "")
        if architecture not in SUPPORTED:
            raise ModelError(
                f'{self.path}: architecture "{architecture}" is not supported '
                f"(supported: {', '.join(SUPPORTED)}); export the model to ONNX instead"
            )

        def need(key: str) -> Any:
            value = self.field(f"llama.{key}")
            if value is None:
                raise InvalidModelError(f'{self.path}: metadata "llama.{key}" is missing')
            return value

        if self.field("llama.rope.scaling.type", "none") not in ("none", "") or self.has("rope_freqs.weight"):
            raise ModelError(f"{self.path}: scaled rotary embeddings are not supported in GGUF files yet")
        heads, hidden = int(need("attention.head_count")), int(need("embedding_length"))
        head_dim = int(self.field("llama.attention.key_length", hidden // heads))
        return LlamaFacts(
            name=str(self.field("general.name", self.path.stem)),
            layers=int(need("block_count")),
            hidden=hidden,
            heads=heads,
            kv_heads=int(self.field("llama.attention.head_count_kv", heads)),
            head_dim=head_dim,
            ffn=int(need("feed_forward_length")),
            vocab=int(self._tensors["token_embd.weight"].shape[1]) if self.has("token_embd.weight") else 0,
            context=int(need("context_length")),
            rms_epsilon=float(need("attention.layer_norm_rms_epsilon")),
            rope_base=float(self.field("llama.rope.freq_base", 10000.0)),
            rope_dim=int(self.field("llama.rope.dimension_count", head_dim)),
        )


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
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InvalidModelError(f"{path}: not a complete GGUF file ({error}); fetch it again") from error
    return GgufModel(path, reader)
