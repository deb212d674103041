"""Tasks as kernels on their own: the same results as the kernels that were recorded for themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama
from numpy.typing import NDArray
from tvm import tirx

from sdc.targets.cpu.emit import build
from sdc.targets.cpu.isa import best_level
from sdc.targets.cpu.kernels.last import LastRow
from sdc.targets.cpu.kernels.linear import LinearSpec, spike_linear
from sdc.targets.cpu.lower.lowering import Lowering, add_batch
from sdc.targets.cpu.region import add_regions
from sdc.targets.cpu.region.alone import alone
from sdc.targets.cpu.task import as_task
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.program import lower_model


def both(generate: Callable[[], tirx.PrimFunc], arrays: list[NDArray]) -> list[NDArray]:
    """The last array as the kernel leaves it, and as its task does."""
    task = as_task(generate, bound=10)
    functions = {"kernel": generate(), "task": task.function, "alone": alone("alone", task, "task")}
    module = build(functions, best_level().target())
    results = []
    for name in ("kernel", "alone"):
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        module[name](*tensors)
        results.append(tensors[-1].numpy())
    return results


@pytest.mark.parametrize("tokens", [1, 10])
def test_a_linear_divides_its_blocks_among_threads_and_each_prepares_its_work(tokens: int) -> None:
    spec = LinearSpec(rows=200, width=60, group=30, levels=15)  # groups are padded, and their counts summed
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(-15, 16, (tokens, 60)).astype(np.int8),
        rng.random((tokens, spec.theta_groups), np.float32),
        rng.integers(-(1 << 31), 1 << 31, (spec.blocks, spec.groups, spec.words, 32)).astype(np.int32),
        rng.random((spec.blocks, spec.scale_groups, 32), np.float32),
        np.zeros((tokens, 200), np.float32),
    ]
    kernel, made = both(lambda: spike_linear(spec, best_level()), arrays)
    assert np.abs(kernel).max() > 1
    np.testing.assert_array_equal(made, kernel)


def test_a_kernel_without_a_parallel_loop_runs_once() -> None:
    arrays = [
        np.arange(-4, 4, dtype=np.int8).reshape(2, 4),
        np.arange(4, dtype=np.float32).reshape(2, 2),
        np.zeros((1, 4), np.int8),
        np.zeros((1, 2), np.float32),
    ]
    kernel, made = both(LastRow("int8", 4, 2).generate, arrays)
    assert kernel.tolist() == made.tolist() == [[2, 3]]


def test_what_a_decoder_has_as_a_task_is_no_kernel_a_second_time() -> None:
    model = spiking_form(tiny_llama(layers=1), SpikeOptions())
    lowering = Lowering(best_level(), PackedWeights(model.params))
    lowered, _ = add_regions(lower_model(model, lowering, add_batch), lowering, chunk=32)
    functions = {gvar.name_hint: function for gvar, function in lowered.module.functions_items()}
    kernels = [
        name for name in functions if name.startswith(("spike_", "encode_", "rms_", "silu_", "lookup_"))
    ]
    assert len(kernels) == 11
    for name in kernels:
        assert f'"task_{name}"' in str(functions[name])
