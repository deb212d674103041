"""Opens an artefact: format version and every hash are checked before anything in it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdc.artefact.writer import FORMAT_VERSION, MANIFEST, canonical, hash_file, seal
from sdc.errors import ArtefactError, CorruptArtefactError, VersionError

__all__ = ["Artefact", "open_artefact"]


@dataclass(frozen=True)
class Artefact:
    """A checked artefact.

    Attributes:
        path: Its directory.
        manifest: What ``manifest.json`` holds.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights, scales and tables: as the target states them, or of all safetensors files."""
        stated = self.manifest["program"].get("weight_bytes")
        if stated is not None:
            return int(stated)
        return sum(f["size"] for name, f in self.manifest["files"].items() if name.endswith(".safetensors"))


def open_artefact(path: str | Path) -> Artefact:
    """Reads the manifest and checks it and all files against their hashes.

    Raises:
        ArtefactError: There is no artefact at ``path``.
        VersionError: It was written in another format version.
        CorruptArtefactError: A file is missing, damaged, or not in the manifest.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise ArtefactError(
            f"{path} is no compiled program (it has no {MANIFEST}); make one with `sdc compile`"
        )
    manifest = _read(path / MANIFEST)
    listed = manifest["files"]
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()} - {MANIFEST}
    strangers = sorted(present - set(listed))
    if strangers:
        raise CorruptArtefactError(f"{path / strangers[0]} does not belong to the program; remove it")
    for name, expected in listed.items():
        _check_file(path, name, expected)
    return Artefact(path, manifest)


def _read(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtefactError(f"{path}: damaged ({error}); compile the model again") from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise VersionError(
            f"{path}: format version {version} is newer than {FORMAT_VERSION}, the newest that this sdc "
            "reads; update sdc, or compile the model again"
        )
    if version != FORMAT_VERSION:
        raise VersionError(f"{path}: format version {version!r} is not supported; compile the model again")
    if canonical(seal(manifest)) != raw:
        raise CorruptArtefactError(f"{path}: its content does not match its hash; compile the model again")
    return dict(manifest)


def _check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    path = folder / name
    if not path.is_file():
        raise CorruptArtefactError(f"{path} is missing; compile the model again")
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
        raise CorruptArtefactError(f"{path} leads out of the program's directory; refused")
    if path.stat().st_size != expected["size"] or hash_file(path) != expected["sha256"]:
        raise CorruptArtefactError(f"{path}: its content does not match its hash; compile the model again")
