"""What ``--emit`` writes; a stand-in for NVIDIA's disassembler, which is not on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdc.config import CompileConfig
from sdc.errors import TargetError
from sdc.targets.cuda import CudaTarget
from sdc.targets.cuda.emitted import find_disassembler, write_emitted


class Compiler:
    """Machine code that names its architecture."""

    def archs(self) -> tuple[str, ...]:
        return ("sm_80", "sm_89", "sm_90")

    def ptx(self, _source: str, arch: str) -> str:
        return f"ptx for {arch}"

    def cubin(self, _source: str, arch: str) -> bytes:
        return f"cubin for {arch}".encode()


def disassembler(folder: Path, script: str) -> Path:
    tool = folder / "cuobjdump"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return folder


def test_every_form_is_written_for_every_architecture(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", f"{disassembler(tmp_path, 'echo $1; cat $2')}:/bin:/usr/bin")
    paths = write_emitted(Compiler(), "code", ["sm_80", "sm_90"], "cuda,ptx,cubin,sass", tmp_path)  # type: ignore[arg-type]
    written = {path.name: path.read_text() for path in paths}
    assert written == {
        "kernels.cu": "code",
        "kernels.sm_80.ptx": "ptx for sm_80",
        "kernels.sm_90.ptx": "ptx for sm_90",
        "kernels.sm_80.cubin": "cubin for sm_80",
        "kernels.sm_90.cubin": "cubin for sm_90",
        "kernels.sm_80.sass": "-sass\ncubin for sm_80",
        "kernels.sm_90.sass": "-sass\ncubin for sm_90",
    }
    assert {p.name for p in (tmp_path / "emitted").iterdir()} == set(written)


def test_a_disassembler_that_fails_is_quoted(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", f"{disassembler(tmp_path, 'echo no such thing >&2; exit 3')}:/bin:/usr/bin")
    with pytest.raises(TargetError, match="cuobjdump failed: no such thing"):
        write_emitted(Compiler(), "code", ["sm_80"], "sass", tmp_path)  # type: ignore[arg-type]


def test_without_a_disassembler_a_compile_does_not_begin(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sdc.targets.cuda.target.find_compiler", Compiler)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="--emit sass needs cuobjdump or nvdisasm on the PATH"):
        find_disassembler()
    with pytest.raises(TargetError, match="--emit sass needs"):
        CudaTarget().check(CompileConfig.of(target="cuda", emit="sass"))
    CudaTarget().check(CompileConfig.of(target="cuda", emit="ptx"))
