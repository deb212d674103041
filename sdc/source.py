"""From a model file that the user names to an ONNX file, its hash and its tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from sdc.cache import cache_dir
from sdc.errors import InvalidModelError

__all__ = ["Source", "hash_source", "open_source"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """A model to compile.

    Attributes:
        path: The file that the user named.
        onnx: The ONNX file that it stands for: itself, or what a GGUF file was converted to.
        sha256: Hash of the named file and of its external data.
    """

    path: Path
    onnx: Path
    sha256: str

    def to_manifest(self) -> dict[str, Any]:
        """JSON values."""
        return {"path": str(self.path.resolve()), "sha256": self.sha256}


def open_source(path: str | Path, progress: Progress = lambda _what, _done, _total: None) -> Source:
    """Finds the ONNX file behind a path; a GGUF file is converted once, into the cache directory.

    Raises:
        InvalidModelError: The file is missing, damaged, or neither ONNX nor GGUF.
        ModelError: A GGUF file of an architecture that is not supported.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidModelError(f"{path}: there is no such file; give an .onnx or a .gguf file")
    suffix = path.suffix.lower()
    if suffix not in (".onnx", ".gguf"):
        raise InvalidModelError(f"{path}: the name must end in .onnx or .gguf, so that its format is known")
    digest = hash_source(path)
    return Source(path, _converted(path, digest, progress) if suffix == ".gguf" else path, digest)


def hash_source(path: Path) -> str:
    """sha256 over the file and, for ONNX, its external data in the order of their names.

    Raises:
        InvalidModelError: The ONNX file cannot be read.
    """
    total = hashlib.sha256(_digest(path))
    if path.suffix.lower() == ".onnx":
        for name in _external_files(path):
            total.update(name.encode() + b"\0")
            if (path.parent / name).is_file():  # a missing file is the frontend's to report
                total.update(_digest(path.parent / name))
    return total.hexdigest()


def _external_files(path: Path) -> list[str]:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf implementations share no narrower class
        raise InvalidModelError(f"{path}: not a complete ONNX file ({error}); export it again") from error
    entries = (e for t in model.graph.initializer for e in t.external_data if e.key == "location")
    names = {e.value for e in entries}
    return sorted(n for n in names if not Path(n).is_absolute() and ".." not in Path(n).parts)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _converted(path: Path, digest: str, progress: Progress) -> Path:
    from sdc.frontends.gguf import to_onnx  # imported late: most models are ONNX

    out = cache_dir() / "converted" / digest[:16] / f"{path.stem}.onnx"
    if not out.is_file():  # the converter puts the graph in place last
        to_onnx(path, out, progress=lambda done, total: progress("converting GGUF", done, total))
    return out
