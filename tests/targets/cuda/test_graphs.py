"""CUDA graphs: the rewritten module, and a program that runs with a stand-in for TVM's recorder."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import tvm
import tvm_ffi
from helpers.no_machine_code import without_machine_code
from helpers.simt_machine import emulated_module
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama
from tvm import relax
from tvm.ir import assert_structural_equal
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from sdc.config import CompileConfig
from sdc.errors import ConfigError
from sdc.runtime.sampling import Sampler
from sdc.targets.cuda import CudaTarget
from sdc.targets.cuda.device import DeviceMemory
from sdc.targets.cuda.graphs import capture
from sdc.targets.cuda.program import lower_for_cuda
from sdc.targets.cuda.runner import CudaRunner
from sdc.targets.fused.describe import signature_of
from sdc.targets.fused.program import CHUNK

SHAPE = {"layers": 1, "hidden": 64, "ffn": 64, "head_dim": 32, "heads": 2, "kv_heads": 1}
OPTIONS = SpikeOptions(group=32, block=32)
RUN, ALLOCATE = "vm.builtin.cuda_graph.run_or_capture", "vm.builtin.cuda_graph.get_cached_alloc"


# TVMScript is parsed when a class is defined: within functions, so that only who runs this test waits for it.
def before() -> tvm.IRModule:
    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                y[i] = x[i] + x[i]

        @T.prim_func(private=True, s_tir=True)
        def choose(y: T.Buffer((4,), "float32"), token: T.Buffer((1,), "int64")):
            token[0] = T.Cast("int64", y[token[0]])

        @R.function
        def greedy(token: R.Tensor((1,), "int64"), weight: R.Tensor((4,), "float32")) -> R.Tensor(
            (1,), "int64"
        ):
            R.func_attr({"relax.force_pure": True})
            cls = Before
            storage = R.memory.alloc_storage(R.shape([16]), 0, "global", "float32")
            y = R.memory.alloc_tensor(storage, 0, R.shape([4]), "float32")
            cls.double(weight, y)
            cls.choose(y, token)
            made = token
            return made

    return Before


def expected() -> tvm.IRModule:
    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                y[i] = x[i] + x[i]

        @T.prim_func(private=True, s_tir=True)
        def choose(y: T.Buffer((4,), "float32"), token: T.Buffer((1,), "int64")):
            token[0] = T.Cast("int64", y[token[0]])

        @R.function(private=True)
        def cuda_graph_alloc() -> R.Tuple(R.Any):
            R.func_attr({"relax.force_pure": True})
            storage: R.Any = R.memory.alloc_storage(R.shape([16]), 0, "global", "float32")
            gv: R.Tuple(R.Any) = (storage,)
            return gv

        @R.function(private=True)
        def greedy_cuda_graph_capture(
            weight: R.Tensor((4,), "float32"), y: R.Tensor((4,), "float32"), token: R.Tensor((1,), "int64")
        ) -> R.Tuple(R.Tensor((1,), "int64")):
            R.func_attr({"relax.force_pure": True})
            cls = Expected
            cls.double(weight, y)
            cls.choose(y, token)
            made = token
            gv = (made,)
            return gv

        @R.function
        def greedy(token: R.Tensor((1,), "int64"), weight: R.Tensor((4,), "float32")) -> R.Tensor(
            (1,), "int64"
        ):
            R.func_attr({"num_input": 0, "relax.force_pure": True})
            cls = Expected
            memory = R.call_builtin_with_ctx(
                "vm.builtin.cuda_graph.get_cached_alloc",
                (cls.cuda_graph_alloc, 0),
                ty_args=(R.Tuple(R.Any),),
            )
            storage: R.Any = memory[0]
            y = R.memory.alloc_tensor(storage, 0, R.shape([4]), "float32")
            states = R.call_builtin_with_ctx(
                "vm.builtin.cuda_graph.run_or_capture",
                (cls.greedy_cuda_graph_capture, (weight, y, token), 0),
                ty_args=(R.Tuple(R.Tensor((1,), "int64")),),
            )
            made = states[0]
            result = R.call_packed("vm.builtin.copy", made, ty_args=(R.Tensor((1,), "int64"),))
            return result

    return Expected


def test_launches_and_memory_of_a_function_move_out_of_it() -> None:
    assert_structural_equal(capture("greedy")(before()), expected())


class Recorder:
    """What TVM's ``vm.builtin.cuda_graph.*`` do, with calls instead of graphs.

    The first call runs the function (TVM's own run before it records); later ones run it on the first call's
    arguments, whatever they are given: a recorded graph holds addresses.
    """

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.recorded: dict[int, tuple[Any, ...]] = {}
        self.runs = Counter[int]()

    def run(self, context: Any, function: Any, arguments: Any, number: int) -> Any:
        arguments = self.recorded.setdefault(int(number), tuple(arguments))
        self.runs[int(number)] += 1
        return tvm_ffi.get_global_func("vm.builtin.invoke_closure")(context, function, *arguments)

    def allocate(self, context: Any, function: Any, number: int) -> Any:
        if int(number) not in self.memory:
            invoke = tvm_ffi.get_global_func("vm.builtin.invoke_closure")
            self.memory[int(number)] = invoke(context, function)
        return self.memory[int(number)]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Stands in for TVM's own, which only a machine with a CUDA driver has."""
    made = Recorder()
    own = {name: tvm_ffi.get_global_func(name, allow_missing=True) for name in (RUN, ALLOCATE)}
    for name, function in ((RUN, made.run), (ALLOCATE, made.allocate)):
        tvm_ffi.register_global_func(name, function, override=True)
    yield made
    for name, function in own.items():
        if function is None:
            tvm_ffi.registry.remove_global_func(name)
        else:
            tvm_ffi.register_global_func(name, function, override=True)


def test_a_greedy_step_is_one_graph_and_gives_the_tokens_of_decode(recorder, tmp_path) -> None:
    model = spiking_form(tiny_llama(**SHAPE), OPTIONS)
    lowered, _ = lower_for_cuda(model)
    module = emulated_module(lowered.module, tmp_path, capture("greedy"))
    values = {name: param.value() for name, param in lowered.weights.params.items()}
    runner = CudaRunner(module, signature_of(model, lowered, CHUNK), values, DeviceMemory(tvm.cpu()))
    for prompt in ([5, 9, 33], [60, 1]):  # the second one with the graph of the first
        token = int(runner.resume(prompt).argmax())
        made = list(itertools.islice(runner.following(token, Sampler()), 3))
        runner.resume(prompt)
        assert made == [int(runner.decode(given).argmax()) for given in (token, *made[:2])]
    assert recorder.runs == {0: 6}
    other = runner.together(1).sequences[0]  # has tensors of its own
    token = int(other.prefill([5, 9]).argmax())
    assert next(other.following(token, Sampler())) == int(runner.resume([5, 9, token]).argmax())
    assert recorder.runs == {0: 6}


def test_every_launch_of_a_step_is_in_the_graph() -> None:
    lowered, _ = lower_for_cuda(spiking_form(tiny_llama(**SHAPE), OPTIONS))
    passes = relax.transform
    planned = tvm.transform.Sequential(
        [
            passes.LegalizeOps(skip_ops=["relax.reshape"]),
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
        ]
    )(lowered.module)
    made = capture("greedy")(planned)
    launched = launches(made, "greedy_cuda_graph_capture")
    assert launched == launches(planned, "greedy") > 10
    assert launches(made, "greedy") == 0
    for name in ("decode", "prefill", "score", "batch"):
        assert_structural_equal(made[name], planned[name])


def launches(module: tvm.IRModule, name: str) -> int:
    """Calls of kernels."""
    values = [b.value for block in module[name].body.blocks for b in block.bindings]
    return sum(isinstance(v, relax.Call) and isinstance(v.op, tvm.ir.GlobalVar) for v in values)


def test_a_program_with_graphs_builds_and_says_so(tmp_path, monkeypatch) -> None:
    without_machine_code(monkeypatch)  # of kernels, which test_build.py has compiled
    model = spiking_form(tiny_llama(**SHAPE), OPTIONS)
    config = CompileConfig.of(target="cuda", arch="sm_90", cuda_graphs=True)
    manifest = json.loads(json.dumps(CudaTarget().build(model, config, tmp_path, lambda *_: None).manifest))
    assert manifest["summary"]["CUDA graphs"] == "greedy"
    code = b"".join((tmp_path / name).read_bytes() for name in manifest["objects"])
    assert RUN.encode() in code


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="cuda_graphs is a setting of target cuda"):
        CompileConfig.of(cuda_graphs=True)
    with pytest.raises(ConfigError, match="cuda_graphs records one device's work"):
        CompileConfig.of(target="cuda", cuda_graphs=True, shards=2)
