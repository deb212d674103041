"""A program for two GPUs: built by the target, run by two of Disco's workers, kernels in the emulator."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from helpers.no_machine_code import without_machine_code
from helpers.simt_machine import emulated_module
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama
from helpers.tiny_source import tiny_source

from sdc.config import CompileConfig
from sdc.errors import ConfigError, NoDeviceError, TargetError
from sdc.ir.model import Model
from sdc.ir.tables import ByteRows
from sdc.runtime.batch import answer_together
from sdc.runtime.sampling import Sampler
from sdc.targets.cuda import CudaTarget
from sdc.targets.cuda.cuts import LinearShare, for_worker
from sdc.targets.cuda.device import find_devices
from sdc.targets.cuda.program import CudaProgram, compile_program, lower_for_cuda
from sdc.targets.cuda.runner import CudaRunner
from sdc.targets.cuda.shard import shard
from sdc.targets.cuda.sharded import ShardedRunner, map_shards
from sdc.targets.cuda.workers import Workers
from sdc.targets.fused.describe import signature_of
from sdc.targets.fused.program import CHUNK
from sdc.targets.fused.runner import HostMemory
from sdc.targets.fused.signature import Signature

# Two workers do not divide such a vocabulary.
SHAPE = {
    "vocab": 63,
    "layers": 1,
    "hidden": 64,
    "ffn": 128,
    "head_dim": 32,
    "heads": 4,
    "kv_heads": 2,
    "bias": True,
}
OPTIONS = SpikeOptions(levels=7, group=32, block=32, weight_bits=4, weight_group=32)
TOKENS = np.random.default_rng(4).integers(0, 63, 6)


def quiet(_what: str, _done: int, _of: int) -> None:
    """Progress that nobody reads."""


@dataclass(frozen=True)
class Built:
    """The whole model, and what the target wrote for two workers."""

    model: Model
    folder: Path
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    model, folder = spiking_form(tiny_llama(**SHAPE), OPTIONS), tmp_path_factory.mktemp("sharded")
    table = model.params["embed.weight"].then(ByteRows())
    model = replace(model, params={**model.params, "embed.weight": table})
    config = CompileConfig.of(target="cuda", arch="sm_90", shards=2)
    with pytest.MonkeyPatch.context() as patch:  # the command line's test has the kernels compiled
        without_machine_code(patch)
        manifest = CudaTarget().build(model, config, folder, quiet).manifest
    return Built(model, folder, json.loads(json.dumps(manifest)))


def weights_of(built: Built) -> list[dict[str, np.ndarray]]:
    paths = [built.folder / name for name in built.manifest["shards"]]
    return map_shards(built.folder / built.manifest["weights"], paths)


@pytest.fixture(scope="module")
def pair(built, tmp_path_factory) -> tuple[CudaRunner, ShardedRunner]:
    """The whole program on one worker, and the one that was written, on two."""
    lowered, _ = lower_for_cuda(built.model)
    module = emulated_module(lowered.module, tmp_path_factory.mktemp("whole"))
    values = {name: param.value() for name, param in lowered.weights.params.items()}
    whole = CudaRunner(module, signature_of(built.model, lowered, CHUNK), values, HostMemory())
    half, _ = lower_for_cuda(shard(built.model, 2)[0])
    module = emulated_module(half.module, tmp_path_factory.mktemp("halves"))
    memories = [HostMemory(), HostMemory()]
    signature = Signature.from_json(built.manifest["signature"])
    linears = [LinearShare(**share) for share in built.manifest["linears"]]
    return whole, ShardedRunner(module, signature, weights_of(built), memories, Workers(2), linears)


def test_what_all_workers_hold_is_stored_once_and_shares_once_each(built) -> None:
    assert built.manifest["shards"] == ["shard.0.safetensors", "shard.1.safetensors"]
    mapped = weights_of(built)
    for worker, model in enumerate(shard(built.model, 2)):
        want = lower_for_cuda(model)[0].weights.params
        assert sorted(mapped[worker]) == sorted(want)
        for name, param in want.items():
            np.testing.assert_array_equal(mapped[worker][name], param.value(), err_msg=name)
    shared = map_shards(built.folder / built.manifest["weights"], [])[0]
    assert "layers.0.attn_norm.weight" in shared
    assert not any(name.endswith((".q.nibbles", ".rows")) for name in shared)  # weights, head, embedding


def test_the_build_report_names_the_all_reduces(built) -> None:
    taken = [s["schedule"] for s in built.manifest["schedules"] if s["function"] == "greedy"]
    drawing = [s["schedule"] for s in built.manifest["schedules"] if s["function"] == "draw"]
    assert drawing == ["copy", "all-reduce", "draw"]
    assert taken.count("all-reduce") == 4  # the embedding, two of the layer, the choice of a token
    assert (taken.count("gemv-dp4a"), taken.count("add")) == (8, 2)  # two residuals
    assert "dlight" not in taken


def test_a_share_of_another_worker_is_cut_before_it_is_packed(built) -> None:
    first = lower_for_cuda(shard(built.model, 2)[0])[0].weights.params
    second = for_worker(first, 1)
    name = next(n for n in first if n.endswith("mlp.down.q.nibbles"))
    both = [p[name].value() for p in (first, second)]
    whole = lower_for_cuda(built.model)[0].weights.params[name].value()
    np.testing.assert_array_equal(np.concatenate(both, 1), whole)


def test_two_workers_give_the_whole_programs_logits_and_tokens(pair) -> None:
    whole, halves = pair
    want = whole.score(TOKENS)
    close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(want).max()}
    np.testing.assert_allclose(halves.score(TOKENS), want, **close)
    assert halves.position == 6
    halves.reset()
    assert halves.position == 0
    np.testing.assert_allclose(halves.prefill(TOKENS[:5]), want[4], **close)
    np.testing.assert_allclose(halves.decode(int(TOKENS[5])), want[5], **close)
    token = int(want[-1].argmax())
    for settings in ((0.0, 1.0), (1.0, 0.9)):
        both = [each.following(token, Sampler(*settings, seed=1)) for each in (halves, whole)]
        made = [list(itertools.islice(following, 2)) for following in both]
        assert made[0] == made[1]
    np.testing.assert_allclose(halves.resume([*TOKENS[:4], 9]), whole.resume([*TOKENS[:4], 9]), **close)
    assert (halves.reused, halves.position) == (4, 5)


def test_several_prompts_decode_together_on_all_workers(pair) -> None:
    whole, halves = pair
    prompts = [[5, 9, 33], [60]]
    assert halves.most_together == whole.most_together > 0
    answers = answer_together(halves, prompts, 2, lambda: Sampler(1.0, 0.9, seed=2), frozenset(), 32)
    for prompt, made in zip(prompts, answers.tokens, strict=True):
        choose = Sampler(1.0, 0.9, seed=2)
        token = choose(whole.resume(prompt))
        assert made == [token, choose(whole.decode(token))]
    group = halves.together(2)
    group.sequences[1].prefill([3, 4])
    want = whole.resume([3, 4, 5])
    np.testing.assert_allclose(group.decode([1], [5])[0], want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    assert [s.position for s in group.sequences] == [0, 3]


def test_spikes_are_those_of_the_whole_program(pair) -> None:
    whole, halves = pair
    whole.reset()
    halves.reset()
    want, all_of_it = whole.score_with_firing(TOKENS)
    logits, fired = halves.score_with_firing(TOKENS)
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    assert fired == all_of_it
    assert (len(fired.linears), len(fired.attentions)) == (8, 1)


def test_what_one_worker_raises_reaches_the_caller_and_the_next_call_works(pair) -> None:
    _, halves = pair
    halves.reset()
    with pytest.raises(TargetError, match="token ids must lie within"):
        halves.prefill([63])
    broken = halves._runners[1]

    def fail(_tokens: Any) -> Any:
        raise TargetError("the second device is gone")

    broken.prefill = fail  # type: ignore[method-assign]
    with pytest.raises(TargetError, match="the second device is gone"):  # the first one waits for its part
        halves.prefill(TOKENS)
    del broken.prefill
    halves.reset()
    assert np.isfinite(halves.prefill(TOKENS)).all()


def test_nccl_is_told_of_the_devices_where_tvm_has_it() -> None:
    told: list[tuple[int, ...]] = []
    name = "runtime.disco.nccl.init_ccl"
    assert tvm_ffi.get_global_func(name, allow_missing=True) is None, "this TVM has NCCL: say so in docs"
    tvm_ffi.register_global_func(name, lambda _session, devices: told.append(tuple(map(int, devices))))
    try:
        assert Workers(2, range(2)).every(lambda worker: worker) == [0, 1]
    finally:
        tvm_ffi.registry.remove_global_func(name)
    assert told == [(0, 1)]


def test_fewer_devices_than_shards_is_one_sentence(monkeypatch) -> None:
    class Device:
        def __init__(self, number: int) -> None:
            self.exist = number < 2

    monkeypatch.setattr(tvm, "cuda", Device)
    assert len(find_devices(2)) == 2
    with pytest.raises(NoDeviceError, match="cut for 4 NVIDIA GPUs, and this machine has 2") as caught:
        find_devices(4)
    assert "\n" not in str(caught.value)


def test_shards_are_checked_before_the_work() -> None:
    with pytest.raises(ConfigError, match="shards is a setting of target cuda, the target is cpu"):
        CompileConfig.of(shards=2)
    with pytest.raises(ConfigError, match="shards = 0"):
        CompileConfig.of(target="cuda", shards=0)
    config = CompileConfig.of(target="cuda", shards=4)
    with pytest.raises(TargetError, match="the model's 2 key heads do not divide among 4 workers"):
        CudaTarget().check_model(tiny_llama(**SHAPE).info, config)


def emulated_devices(patch: pytest.MonkeyPatch, module: tvm.IRModule, folder: Path) -> None:
    """Two devices that are this processor: a program is loaded with the kernels of ``module`` emulated."""
    target = "sdc.targets.cuda.target"
    patch.setattr(f"{target}.find_devices", lambda count: [tvm.cpu()] * count)
    patch.setattr(f"{target}.check_room", lambda _device, _needed: None)
    patch.setattr(f"{target}.DeviceMemory", lambda _device: HostMemory())
    patch.setattr(f"{target}.load_objects", lambda _paths: emulated_module(module, folder))


@pytest.mark.skipif(tvm.cuda(0).exist, reason="this machine has a CUDA device")
def test_the_command_line_reaches_it(command, tmp_path, monkeypatch) -> None:
    lowered: list[tvm.IRModule] = []

    def compile_and_keep(module: tvm.IRModule, *rest: Any) -> CudaProgram:
        lowered.append(module)
        return compile_program(module, *rest)

    monkeypatch.setattr("sdc.targets.cuda.target.compile_program", compile_and_keep)
    source, out = tiny_source(tmp_path), tmp_path / "two.sdc"
    options = ("--target", "cuda", "--arch", "sm_90", "--group", 8, "--block", 8, "--max-seq", 64)
    status, _, complaint = command("compile", source, "-o", out, *options, "--shards", 3)
    assert (status, "do not divide among 3 workers" in complaint) == (2, True)
    status, _, complaint = command("compile", source, "-o", out, *options, "--shards", 2)
    assert status == 0, complaint
    assert {p.name for p in out.glob("*.safetensors")} == {
        "weights.safetensors",
        "shard.0.safetensors",
        "shard.1.safetensors",
    }
    found = json.loads(command("inspect", out, "--json")[1])
    assert found["config"]["shards"] == 2
    assert found["summary"]["GPUs"].startswith("2,")
    assert "4 add" in found["summary"]["greedy"]  # residuals, after the all-reduces of two layers
    shown = command("inspect", out)[1]
    assert "draw_token_96" in shown  # names and heads of columns are not cut off
    assert "registers" in shown
    status, _, complaint = command("run", out, "--prompt", "Hello")
    assert (status, complaint.count("\n")) == (2, 1)
    assert "has no CUDA device" in complaint
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 2)
    emulated_devices(monkeypatch, lowered[0], tmp_path)
    status, made, complaint = command("eval", out, "--text", text, "--windows", 1, "--window", 16, "--json")
    assert status == 0, complaint
    found = json.loads(made)
    assert (found["tokens"], found["windows"]) == (16, 1)
    assert found["ratio"] == pytest.approx(1, abs=0.2)  # of the ONNX model's perplexity
    assert found["greedy_agreement"] > 0.5
    assert len(found["ops"]) == len(json.loads((out / "manifest.json").read_text())["ops"])
    assert 0 < found["zero_fraction"] < 1 < found["synops_per_token"]
