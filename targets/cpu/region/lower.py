"""Which functions of a lowered decoder become regions."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from sdc.targets.cpu.layout import sequence_bytes
from sdc.targets.cpu.lower.lowering import BATCH, Lowering
from sdc.targets.cpu.region.alone import alone
from sdc.targets.cpu.region.program import Fixed
from sdc.targets.cpu.region.region import Region, make_region, symbol_of
from sdc.targets.cpu.task import Task
from sdc.targets.fused.program import Lowered
from sdc.targets.weights import offsets

__all__ = ["add_regions"]


def add_regions(lowered: Lowered, lowering: Lowering, chunk: int) -> tuple[Lowered, dict[str, Region]]:
    """``decode``, ``prefill`` and ``batch`` as regions in place of Relax functions, where our kernels do all.

    Where one would do more, ``batch`` is left out. ``score`` stays a Relax function: its kernels are watched
    one by one when spikes are counted. Those that regions have as tasks call these.

    Args:
        lowered: The model.
        lowering: What lowered it.
        chunk: Most tokens a call.
    """
    regions = dict[str, Region]()
    stride = sequence_bytes(lowered.states)
    for name, tokens in (("decode", 1), ("prefill", chunk), (BATCH, chunk)):
        if name in lowered.launches:
            function = lowered.module[name]
            places = _places(function, lowered)
            apart = stride if name == BATCH else 0
            kernels, isa, goes_on = lowering.generators, lowering.isa, name == "decode"
            made = make_region(name, function, kernels, places, isa, tokens, apart, goes_on)
            if made is not None:
                regions[name] = made
    launches = {k: n for k, n in lowered.launches.items() if k != BATCH or k in regions}
    rest = [name for name in launches if name not in regions]
    module = relax.transform.DeadCodeElimination(rest)(_without(lowered.module, {*regions, BATCH}))
    tasks = dict[str, Task]()
    for region in regions.values():
        for name, function in region.all_functions.items():
            module[name] = function
        tasks |= region.tasks
    _call_tasks(module, tasks)
    return replace(lowered, module=module, launches=launches), regions


def _call_tasks(module: tvm.IRModule, tasks: Mapping[str, Task]) -> None:
    """Kernels that are in the module a second time, as tasks, call these: LLVM compiles them once."""
    for gvar, function in module.functions_items():
        task = tasks.get(gvar.name_hint)
        if task is not None:
            made = alone(gvar.name_hint, task, symbol_of(gvar.name_hint))
            module.update_func(gvar, made.with_attrs(dict(function.attrs)))


def _places(function: relax.Function, lowered: Lowered) -> dict[Any, Fixed]:
    """Where a decoder's parameters lie: tokens, position, states, weights."""
    states = [(s.shape, s.dtype) for s in lowered.states]
    weights = [(p.shape, p.dtype) for p in lowered.weights.params.values()]
    places = [Fixed("tokens"), Fixed("position")]
    places += [Fixed("states", offset) for offset in offsets(states)]
    places += [Fixed("weights", offset) for offset in offsets(weights)]
    return dict(zip(function.params, places, strict=False))


def _without(module: tvm.IRModule, names: Container[str]) -> tvm.IRModule:
    kept = {v: f for v, f in module.functions_items() if v.name_hint not in names}
    return tvm.IRModule(kept, attrs=module.attrs)
