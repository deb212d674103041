"""On a device: `pytest -m gpu`. The same programs as in the emulator, and SmolLM2 against the CPU target."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from helpers.simt_program import EmulatedDecoder
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama

import sdc
from sdc.config import CompileConfig
from sdc.ir.model import Model
from sdc.runtime.batch import answer_together
from sdc.runtime.sampling import Sampler
from sdc.targets.cuda import CudaTarget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tvm.cuda(0).exist, reason="no CUDA device"),
]

SHAPE = {"layers": 1, "hidden": 64, "ffn": 128, "head_dim": 32, "heads": 2, "kv_heads": 2}
TOKENS = np.random.default_rng(4).integers(0, 64, 9)


def quiet(_what: str, _done: int, _of: int) -> None:
    """Progress that nobody reads."""


def loaded(bits: int, folder: Path, **settings: Any) -> tuple[Model, Any]:
    """A tiny model, and its runner on the device; several shards share the one device."""
    options = SpikeOptions(group=32, block=32, weight_bits=bits, weight_group=0 if bits == 8 else 32)
    model = spiking_form(tiny_llama(**SHAPE), options)
    version = "sm_" + "".join(str(tvm.cuda(0).compute_version).split("."))
    config = CompileConfig.of(target="cuda", arch=version, **settings)
    result = CudaTarget().build(model, config, folder, quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdc.targets.cuda.target.find_devices", lambda count: [tvm.cuda(0)] * count)
        # Two workers of NCCL cannot share a device.
        patch.setattr("sdc.targets.cuda.workers.has_nccl", lambda: False)
        return model, CudaTarget().load(folder, json.loads(json.dumps(result.manifest)))


@pytest.mark.parametrize(
    ("bits", "settings"), [(8, {}), (4, {}), (8, {"cuda_graphs": True}), (4, {"shards": 2})]
)
def test_a_device_gives_what_the_emulator_gives(bits, settings, tmp_path) -> None:
    model, runner = loaded(bits, tmp_path, **settings)
    emulated = EmulatedDecoder(model)
    want = emulated.call("score", TOKENS)
    np.testing.assert_allclose(runner.score(TOKENS), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    runner.reset()
    emulated.reset()
    token = int(runner.prefill(TOKENS[:4]).argmax())
    emulated.call("prefill", TOKENS[:4])
    following = runner.following(token, Sampler())
    assert [next(following) for _ in range(5)] == emulated.greedy(token, 5)


@pytest.mark.parametrize("settings", [{}, {"shards": 2}])
def test_drawn_tokens_are_the_samplers_for_the_devices_logits(settings, tmp_path) -> None:
    _, runner = loaded(8, tmp_path, **settings)
    for drawing in ((0.8, 0.9), (1.5, 1.0)):
        sampler = Sampler(*drawing, seed=3)
        token = int(runner.resume(TOKENS[:4]).argmax())
        want = [sampler(runner.decode(token))]
        want += [sampler(runner.decode(want[-1]))]
        runner.resume(TOKENS[:4])
        following = runner.following(token, Sampler(*drawing, seed=3))
        assert [next(following) for _ in range(2)] == want


@pytest.mark.parametrize("settings", [{}, {"shards": 2}])
def test_prompts_together_are_each_alone_and_spikes_are_counted(settings, tmp_path) -> None:
    _, runner = loaded(8, tmp_path, **settings)
    prompts = [[5, 9, 33], [60, 1, 2, 3, 4], [7]]
    answers = answer_together(runner, prompts, 4, Sampler, frozenset(), 32)
    for prompt, made in zip(prompts, answers.tokens, strict=True):
        token = int(runner.resume(prompt).argmax())
        following = runner.following(token, Sampler())
        assert made == [token, *(next(following) for _ in range(3))]
    runner.reset()
    logits, firing = runner.score_with_firing(TOKENS)
    assert np.isfinite(logits).all()
    assert [fired.neurons for fired in firing.linears][:1] == [TOKENS.size * SHAPE["hidden"]]
    assert all(0 < fired.rate_spikes < fired.rate_synops for fired in firing.linears)


PROMPTS = (
    "The capital of France is",
    "Write a haiku about rain.",
    "2 + 2 =",
    "Once upon a time",
    "Explain gravity to a child.",
    "List three colours.",
    "def fibonacci(n):",
    "Who wrote Hamlet?",
)


@pytest.mark.slow
def test_smollm2_gives_the_cpu_targets_tokens(tmp_path) -> None:
    source = Path(os.environ.get("SDC_CACHE_DIR", "")) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not source.is_file():
        pytest.skip("SDC_CACHE_DIR holds no SmolLM2; sdc demo downloads it")
    programs = [sdc.compile(source, target, out=tmp_path / target) for target in ("cpu", "cuda")]
    for prompt in PROMPTS:
        assert programs[0].generate(prompt, 64) == programs[1].generate(prompt, 64), prompt
