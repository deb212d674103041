"""NVIDIA's compiler nvcc: found, its version checked, and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdc.errors import TargetError
from sdc.targets.cuda.compiled import NUMERICS, Compiled, check_version, number, version_words

__all__ = ["Nvcc", "find_nvcc"]


@dataclass(frozen=True)
class Nvcc:
    """A compiler that is new enough."""

    path: Path
    version: tuple[int, int]

    @property
    def name(self) -> str:
        """For people and manifests."""
        return f"nvcc {version_words(self.version)}"

    def archs(self) -> tuple[str, ...]:
        """The architectures that it makes machine code for."""
        command = [str(self.path), "--list-gpu-code"]
        return tuple(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())

    def fat_binary(self, source: str, archs: Sequence[str]) -> Compiled:
        """Compiles CUDA C++ for the architectures.

        Raises:
            TargetError: The compiler refuses.
        """
        lowest = min(archs, key=number)
        codes = [f"-gencode=arch=compute_{number(a)},code=sm_{number(a)}" for a in archs]
        codes.append(f"-gencode=arch=compute_{number(lowest)},code=compute_{number(lowest)}")
        binary, said = self._run(source, "fatbin", [*codes, "-Xptxas=-v", "--threads=0"])
        return Compiled.of(binary, said, source)

    def ptx(self, source: str, arch: str) -> str:
        """PTX for an architecture. Raises as :meth:`fat_binary`."""
        return self._run(source, "ptx", [f"-arch=compute_{number(arch)}"])[0].decode()

    def cubin(self, source: str, arch: str) -> bytes:
        """Machine code for an architecture. Raises as :meth:`fat_binary`."""
        return self._run(source, "cubin", [f"-arch={arch}"])[0]

    def _run(self, source: str, form: str, options: list[str]) -> tuple[bytes, str]:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "kernels.cu").write_text(source, encoding="utf-8")
            # Relative names, because the binary holds them.
            command = [
                str(self.path),
                f"-{form}",
                "-O3",
                "-w",
                *NUMERICS,
                *options,
                "-o",
                "out",
                "kernels.cu",
            ]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            said = done.stdout + done.stderr
            if done.returncode:
                raise TargetError(f"{self.path} could not compile the kernels: {said.strip()[-2000:]}")
            return (Path(folder) / "out").read_bytes(), said


def find_nvcc() -> Nvcc:
    """The compiler on the search path.

    Raises:
        TargetError: There is none, or it is too old.
    """
    found = shutil.which("nvcc")
    if found is None:
        raise TargetError("no nvcc is on the PATH")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+)\.(\d+)", said)
    path, version = Path(found), (int(match[1]), int(match[2])) if match else None
    return Nvcc(path, check_version(path, version))
