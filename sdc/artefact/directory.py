"""Writing an artefact atomically, and opening one only if every byte is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdc.errors import ArtefactError, CorruptArtefactError, VersionError

__all__ = ["FORMAT_VERSION", "MANIFEST", "Artefact", "open_artefact", "writing"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_SCRATCH = ".sdc-partial-"


@dataclass(frozen=True)
class Artefact:
    """An opened artefact, hashes checked.

    Attributes:
        path: The directory.
        manifest: Its ``manifest.json``.
    """

    path: Path
    manifest: dict[str, Any]

    def file(self, name: str) -> Path | None:
        """The path of a file that belongs to the artefact, or None where it has none of that name."""
        return self.path / name if name in self.manifest["files"] else None


@contextmanager
def writing(out: Path, *, force: bool = False) -> Iterator[tuple[Path, Callable[[dict[str, Any]], None]]]:
    """A scratch directory beside ``out``, and a function that seals it: the artefact appears all at once.

    Whatever stops the work before the seal, no directory of the name ``out`` appears; what an earlier,
    killed compile left behind is removed.

    Args:
        out: Where the artefact shall stand.
        force: Replace what stands there.

    Raises:
        ArtefactError: ``out`` exists and ``force`` is not set, or it is no artefact.
    """
    out = out.resolve()
    if out.exists() and not (force and (out / MANIFEST).is_file()):
        what = (
            "exists; give --force to replace it"
            if not force
            else "exists and is no sdc artefact; not replaced"
        )
        raise ArtefactError(f"{out} {what}")
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{_SCRATCH}{out.name}-"
    for stale in out.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))

    def seal(manifest: dict[str, Any]) -> None:
        _write_manifest(scratch, manifest)
        if out.exists():
            shutil.rmtree(out)
        scratch.chmod(0o755)
        scratch.replace(out)

    try:
        yield scratch, seal
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        files[name] = {"sha256": _hash(path), "size": path.stat().st_size}
    whole = {"format_version": FORMAT_VERSION, **manifest, "files": files}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(json.dumps(whole, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def open_artefact(path: str | Path) -> Artefact:
    """Opens an artefact after checking its version and the hash of every file.

    Raises:
        ArtefactError: There is no artefact at ``path``.
        VersionError: It was written in a newer format.
        CorruptArtefactError: A file is missing, damaged, or not listed.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise ArtefactError(f"{path} is no sdc artefact: it has no {MANIFEST}; compile the model again")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtefactError(
            f"{path / MANIFEST} is damaged ({error}); compile the model again"
        ) from error
    if version != FORMAT_VERSION:
        raise VersionError(
            f"{path} has format version {version}, this sdc reads {FORMAT_VERSION}; "
            "update sdc, or compile the model again"
        )
    for name, entry in files.items():
        _check(path, name, entry)
    return Artefact(path, manifest)


def _check(folder: Path, name: str, entry: dict[str, Any]) -> None:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise CorruptArtefactError(f"{folder}: the manifest names {name}, outside the artefact; refused")
    if not path.is_file():
        raise CorruptArtefactError(f"{path} is missing; compile the model again")
    if path.stat().st_size != entry["size"] or _hash(path) != entry["sha256"]:
        raise CorruptArtefactError(
            f"{path} is not what was written (its hash differs); compile the model again"
        )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
