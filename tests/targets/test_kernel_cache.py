"""The kernel cache: the same module is compiled once, whatever its weights and calibrated numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm
from helpers.cpu_kernels import best_level
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama

from sdc.targets.cpu import CpuTarget
from sdc.targets.fused import library


def objects(folder: Path, **shape: int) -> dict[str, bytes]:
    folder.mkdir()
    model = spiking_form(tiny_llama(layers=1, **shape), SpikeOptions())
    result = CpuTarget((best_level().name,)).build(model, None, folder, lambda *_: None)
    return {path.name: path.read_bytes() for path in result.files if path.suffix == ".o"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def test_a_second_compile_finds_its_machine_code(tmp_path, cache, monkeypatch) -> None:
    first = objects(tmp_path / "a")
    (entry,) = cache.iterdir()
    assert sorted(p.name for p in entry.iterdir()) == sorted(first)

    def refuse(*_arguments, **_options):
        raise AssertionError("compiled again")

    monkeypatch.setattr(tvm, "compile", refuse)
    assert objects(tmp_path / "b") == first


def test_another_shape_is_another_entry_and_old_entries_go(tmp_path, cache, monkeypatch) -> None:
    monkeypatch.setattr(library, "_KEPT", 1)
    objects(tmp_path / "a")
    (old,) = cache.iterdir()
    objects(tmp_path / "b", kv_heads=1)
    (new,) = cache.iterdir()
    assert new.name != old.name
