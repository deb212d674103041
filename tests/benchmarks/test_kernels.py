"""The benchmark of single kernels runs: in both forms, over several sets of weights."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from sdc.targets.cpu.isa import best_level


@pytest.fixture
def benchmarks(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    return import_module("kernels"), import_module("crossover")


def test_regions_of_a_linear_run(benchmarks) -> None:
    kernels, crossover = benchmarks
    spec = replace(kernels.linear(64, 64, 4), tokens=1)
    counts = np.ones((1, 64), np.int8)
    assert kernels.region(spec, best_level(), 2, 2)(counts) > 0
    assert kernels.region(replace(spec, tokens=0), best_level(), 1, 1)() > 0
    columns = (crossover.lines(spec), 64, crossover.LINE_BYTES // 4)
    assert kernels.region(spec, best_level(), 2, 1, crossover._event, columns)(counts) > 0
