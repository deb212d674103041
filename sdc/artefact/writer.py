"""Writes an artefact: everything goes to a directory beside the final one, which is renamed at the end.

The manifest is written last, so a directory without one is never taken for an artefact.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdc.errors import ArtefactError

__all__ = ["FORMAT_VERSION", "MANIFEST", "canonical", "hash_file", "seal", "staged", "write_manifest"]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


@contextmanager
def staged(out: Path, force: bool = False) -> Iterator[Path]:
    """A fresh directory to fill; it becomes ``out`` if the block ends well, and is removed otherwise.

    What killed processes left beside ``out`` is removed first.

    Args:
        out: Where the artefact shall stand.
        force: Replace an artefact that stands there.

    Raises:
        ArtefactError: ``out`` exists and ``force`` is not set, or it is no artefact.
    """
    _check_free(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(out)
    folder = out.parent / f".{out.name}.partial-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        _publish(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_free(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise ArtefactError(f"{out} exists already; give another name with -o, or --force to replace it")
    if not (out / MANIFEST).is_file():
        raise ArtefactError(
            f"{out} is no compiled program, so --force does not replace it; remove it yourself"
        )


def _remove_stale(out: Path) -> None:
    for kind in ("partial", "replaced"):
        for left in out.parent.glob(f".{out.name}.{kind}-*"):
            number = left.name.rpartition("-")[2]
            if number.isdigit() and (int(number) == os.getpid() or not _is_alive(int(number))):
                shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _publish(folder: Path, out: Path) -> None:
    """Everything reaches the disk before the name does."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _sync(path)
    _sync(folder)
    old = out.parent / f".{out.name}.replaced-{os.getpid()}"
    if out.exists():
        out.rename(old)
    folder.rename(out)
    _sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes ``manifest.json`` with the hash and size of every file in ``folder``; returns what it wrote.

    The bytes depend on the content only: keys are sorted, and there are no times or machine names.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    files = {
        str(p.relative_to(folder).as_posix()): {"sha256": hash_file(p), "size": p.stat().st_size}
        for p in paths
    }
    sealed = seal({**content, "format_version": FORMAT_VERSION, "files": files})
    (folder / MANIFEST).write_bytes(canonical(sealed))
    return sealed


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with ``manifest_sha256``, the hash of all the rest."""
    rest = {k: v for k, v in content.items() if k != "manifest_sha256"}
    return {**rest, "manifest_sha256": hashlib.sha256(canonical(rest)).hexdigest()}


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys; refuses NaN and infinity."""
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def hash_file(path: Path) -> str:
    """Its sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
