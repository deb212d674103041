"""Two workers of TVM's Disco runtime on this machine's CPU run a sharded decoder."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from helpers.spiking_form import SpikeOptions, spiking_form, state_inputs
from helpers.tiny_llama import tiny_llama
from helpers.workers import Meeting
from tvm import relax

from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.targets.cuda.shard import shard

TOKENS = np.random.default_rng(4).integers(0, 64, 6)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="Disco loads shared libraries, which g++ links"),
]


def disco() -> Any:
    """The module; apache-tvm 0.27 imports it before its functions are registered, so they are bound again."""
    module = importlib.import_module("tvm.runtime.disco")
    tvm_ffi.init_ffi_api("runtime.disco", "tvm.runtime.disco._ffi_api")
    return module


def worker() -> int:
    """The number of the worker whose thread this is."""
    number = tvm_ffi.get_global_func("runtime.disco.worker_id")()
    return int(number if isinstance(number, int) else number[0])


def arguments(models: tuple[Model, ...], number: int) -> dict[str, np.ndarray]:
    """A worker's inputs, empty caches and weights, by parameter."""
    model = models[number]
    function = model.module["forward"]
    names = [str(v.name) for v in function.params]
    count = int(function.attrs["num_input"])
    inputs = [TOKENS[None], np.array(0), *state_inputs(model)]
    weights = [model.params[name].value() for name in names[count:]]
    return dict(zip(names, [*inputs, *weights], strict=True))


def register(models: tuple[Model, ...]) -> None:
    """What the workers call: their arguments, the first output, and the sum over workers."""
    meeting = Meeting(len(models))
    every = [arguments(models, number) for number in range(len(models))]

    def argument(name: str) -> Any:
        return tvm.runtime.tensor(np.array(every[worker()][str(name)], order="C"))

    def add_up(send: Any, _kind: Any, _in_group: bool, receive: Any) -> None:
        meeting.mine.worker = worker()
        receive.copyfrom(meeting.add_up(send.numpy()))

    tvm_ffi.register_global_func("sdc_test.argument", argument, override=True)
    tvm_ffi.register_global_func("sdc_test.first", lambda outputs: outputs[0], override=True)
    # TVM's all-reduce calls runtime.disco.LIBRARY.allreduce; without NCCL the library's name is empty.
    tvm_ffi.register_global_func("runtime.disco..allreduce", add_up, override=True)


def test_two_workers_give_the_whole_programs_logits(tmp_path) -> None:
    options = SpikeOptions(group=8, block=8, weight_bits=4, weight_group=8)
    model = spiking_form(tiny_llama(layers=1, bias=True), options)
    halves = shard(model, 2)
    executable = tvm.compile(relax.transform.LegalizeOps()(halves[0].module), target="llvm")
    executable.export_library(str(tmp_path / "program.so"))
    register(halves)
    session = disco().ThreadedSession(2)
    try:
        machine = session.load_vm_module(str(tmp_path / "program.so"), device=tvm.cpu())
        get = session.get_global_func("sdc_test.argument")
        values = [session.call_packed(get, str(v.name)) for v in halves[0].module["forward"].params]
        first = session.call_packed(session.get_global_func("sdc_test.first"), machine["forward"](*values))
        logits = [first.debug_get_from_remote(number).numpy() for number in range(2)]
    finally:
        session.shutdown()
    want = Evaluator(model).run("forward", TOKENS[None], np.array(0), *state_inputs(model))[0]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_allclose(logits[0], want, atol=1e-5 * np.abs(want).max())
