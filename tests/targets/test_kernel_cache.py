"""The kernel cache: the same module is compiled once, whatever its weights and calibrated numbers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import tvm
from helpers.one_linear import one_linear

from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level
from sdc.targets.cpu.kernels.sample import sample
from sdc.targets.fused import library
from sdc.targets.fused.program import compile_module


def objects(folder: Path, width: int = 24, seed: int = 0) -> dict[str, bytes]:
    folder.mkdir()
    result = CpuTarget((best_level().name,)).build(one_linear(width, seed), None, folder, lambda *_: None)
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
    assert objects(tmp_path / "b", seed=1) == first


def test_another_shape_is_another_entry_and_old_entries_go(tmp_path, cache, monkeypatch) -> None:
    monkeypatch.setattr(library, "_KEPT", 1)
    objects(tmp_path / "a")
    (old,) = cache.iterdir()
    objects(tmp_path / "b", width=16)
    (new,) = cache.iterdir()
    assert new.name != old.name


def test_an_entry_that_another_compile_removes_meanwhile_is_made_again(tmp_path, cache, monkeypatch) -> None:
    first = objects(tmp_path / "a")
    copy, left = library.shutil.copyfile, [1]

    def vanish_once(source, target):
        if left and str(source).startswith(str(cache)):
            left.clear()
            library.shutil.rmtree(next(cache.iterdir()))
        return copy(source, target)

    monkeypatch.setattr(library.shutil, "copyfile", vanish_once)
    assert objects(tmp_path / "b") == first
    assert not left
    assert len(list(cache.iterdir())) == 1


def test_compiles_at_the_same_time_share_one_cache(tmp_path, cache) -> None:
    isa = best_level()
    module = tvm.IRModule({"sample": sample(64, isa).with_attr("global_symbol", "sample")})

    def compiled(name: str) -> dict[str, bytes]:
        (tmp_path / name).mkdir()
        make = partial(compile_module, module, isa.target(), isa.name)
        paths = library.cached_objects(module, str(isa), tmp_path / name, isa.name, make)
        return {path.name: path.read_bytes() for path in paths}

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(compiled, "abc"))
    assert made[0] == made[1] == made[2]
    (entry,) = cache.iterdir()
    assert {p.name: p.read_bytes() for p in entry.iterdir()} == made[0]
