"""Regions: the memory plan, kernels as tasks, and the same results on any number of threads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama
from hypothesis import given
from hypothesis import strategies as st

from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import best_level
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear
from sdc.targets.cpu.lower.lowering import Lowering
from sdc.targets.cpu.region import add_regions
from sdc.targets.cpu.region.own import OwnSteps
from sdc.targets.cpu.region.plan import Slot, place
from sdc.targets.cpu.region.program import Step, Steps
from sdc.targets.cpu.task import Task, as_task
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.program import lower_model

TOKENS = np.random.default_rng(5).integers(0, 64, 9)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 3)), max_size=12), st.integers(0, 200))
def test_tensors_that_live_at_once_do_not_overlap(tensors, start) -> None:
    slots = [Slot(size, first, first + life) for first, (size, life) in enumerate(tensors)]
    end = place(slots, start)
    for i, one in enumerate(slots):
        assert one.offset % 64 == start % 64 or one.offset % 64 == 0
        assert start <= one.offset <= end - one.size
        for other in slots[i + 1 :]:
            if other.first <= one.last:
                apart = one.offset + one.size <= other.offset or other.offset + other.size <= one.offset
                assert apart


def test_memory_of_tensors_that_are_read_no_more_is_used_again() -> None:
    slots = [Slot(64, 0, 1), Slot(64, 1, 2), Slot(64, 2, 3)]
    assert place(slots) == 128
    assert [s.offset for s in slots] == [0, 64, 0]


def test_a_task_takes_a_piece_of_the_parallel_loop_and_its_work_arrays_as_pointers() -> None:
    spec = LinearSpec(96, 64, 32, levels=15)  # sums of the counts of a group need room
    task = as_task(lambda: spike_linear(spec, best_level()), bound=10)
    shapes = [a for a in task.arguments if isinstance(a, tuple)]
    (symbol,) = [a for a in task.arguments if not isinstance(a, tuple)]
    assert (task.count, [s[1:] for s in shapes[:2]]) == (3, [(64,), (1,)])
    assert shapes[0][0].same_as(symbol)
    assert task.work == (0,)
    assert task.scratch == 128  # 10 tokens of 2 groups, int32, rounded up to whole cache lines
    assert len(task.function.params) == 3 + len(task.arguments) + len(task.work)


def own_steps(kernels: list[str], reads: dict[int, list[int]]) -> OwnSteps:
    """Of steps that each read what the named ones made; "cache" writes in place and makes nothing."""
    slots = {n: Slot(64, n, n) for n, kernel in enumerate(kernels) if kernel != "cache"}
    for number, made in reads.items():
        for each in made:
            slots[each].last = max(slots[each].last, number)
    last = len(kernels) - 1
    slots[last].last = last + 1
    calls = tuple(
        Step(name, tuple((slots[m], (1,)) for m in reads.get(n, [])), in_place=name == "cache")
        for n, name in enumerate(kernels)
    )
    short = Task(None, 1, (), (), 0)
    tasks = {"linear": replace(short, count=8), "encode": short}
    steps = Steps(calls, tuple(slots.values()), slots[last], (1,))
    assert OwnSteps(steps, {}).numbers == set()
    return OwnSteps(steps, tasks)


def test_short_steps_are_every_threads_own_and_what_they_read_outlives_them() -> None:
    kernels = ["linear", "encode", "cache", "encode", "linear", "encode", "encode"]
    own = own_steps(kernels, {1: [0], 2: [1], 3: [0], 4: [3], 5: [4], 6: [5]})
    assert own.numbers == {1, 3, 5}
    # Who still gets a piece of step 4, after its own step 3, knows that nobody was beyond it before.
    assert [(s.first, s.last) for s in own.shared] == [(0, 4), (4, 6)]
    assert [(s.first, s.last) for s in own.slots] == [(1, 2), (3, 4), (5, 6)]
    assert own.place(128) == 192


def test_what_own_steps_read_stays_while_their_results_may_go_into_a_piece_by_way_of_others() -> None:
    kernels = ["linear", "encode", "linear", "linear", "encode", "linear", "linear"]
    own = own_steps(kernels, {1: [0], 2: [1], 3: [2], 4: [1, 3], 5: [4], 6: [5]})
    assert own.numbers == {1, 4}
    # Step 1's result goes into step 5 through step 4: a thread late for step 1 may be in time for step 5.
    assert [(s.first, s.last) for s in own.shared] == [(0, 5), (2, 3), (3, 5), (5, 6)]


def test_a_tasks_arrays_are_registers_and_no_memory_that_is_passed_to_it() -> None:
    """TVM would allocate them outside the function that it makes of a task."""
    spec = LinearSpec(96, 64, 32, levels=15)
    task = as_task(lambda: spike_linear(spec, best_level()), bound=10)
    code = build({"task": task.function}, best_level().target()).inspect_source("ll")
    (parameters,) = re.findall(rf"^define .*@{spec.key()}\((.*?)\) ", code, re.MULTILINE)
    names = re.findall(r"%(\w+)", parameters)
    assert set(names) <= {p.name for p in task.function.params}
    body = code.split(f"@{spec.key()}(", 1)[1].split("\n}", 1)[0]
    assert "alloca" not in body


def test_a_decoder_becomes_two_regions_and_keeps_only_its_scoring_function() -> None:
    model = spiking_form(tiny_llama(layers=1), SpikeOptions())
    lowering = Lowering(best_level(), PackedWeights(model.params))
    lowered, regions = add_regions(lower_model(model, lowering), lowering, chunk=32)
    assert set(regions) == {"decode", "prefill"}
    for name, region in regions.items():
        assert region.steps == lowered.launches[name]
        assert lowered.module[name].attrs["global_symbol"] == name
    assert regions["prefill"].meetings == regions["prefill"].steps
    assert regions["decode"].meetings == 3  # caches, attention, result: other linears are short here
    assert [g.name_hint for g, f in lowered.module.functions_items() if "relax" in str(type(f))] == ["score"]


_RUN = """
import json, sys
from pathlib import Path
import numpy as np
from sdc.targets.cpu import CpuTarget
folder = Path(sys.argv[1])
runner = CpuTarget().load(folder, json.loads((folder / "manifest").read_text()))
tokens = json.loads(sys.argv[2])
first = None
for _ in range(int(sys.argv[4])):
    runner.reset()
    rows = np.array([runner.prefill(tokens[:4])] + [runner.decode(t) for t in tokens[4:]])
    first = rows if first is None else first
    assert np.array_equal(rows, first)
np.save(folder / sys.argv[3], first)
"""


def test_results_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """Seven threads on a machine of fewer cores: most of them lose their core in the middle of a step."""
    model = spiking_form(tiny_llama(layers=2), SpikeOptions())
    result = CpuTarget((best_level().name,)).build(model, None, tmp_path, lambda *_: None)
    (tmp_path / "manifest").write_text(json.dumps(result.manifest))
    for threads, times in ((1, 1), (7, 1500)):
        arguments = [str(tmp_path), json.dumps(TOKENS.tolist()), f"{threads}.npy", str(times)]
        environment = {**os.environ, "TVM_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, "-c", _RUN, *arguments], env=environment, check=True, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "1.npy"), np.load(tmp_path / "7.npy"))
