"""On a device: `pytest -m gpu`. The same programs as in the emulator, and SmolLM2 against the CPU target."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tvm
from helpers.simt_program import EmulatedDecoder
from helpers.spiking_form import SpikeOptions, spiking_form
from helpers.tiny_llama import tiny_llama

import sdc
from sdc.config import CompileConfig
from sdc.runtime.sampling import Sampler
from sdc.targets.cuda import CudaTarget
from sdc.targets.cuda.runner import CudaRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tvm.cuda(0).exist, reason="no CUDA device"),
]

SHAPE = {"layers": 1, "hidden": 64, "ffn": 96, "head_dim": 32, "heads": 2, "kv_heads": 1}
TOKENS = np.random.default_rng(4).integers(0, 64, 9)


def quiet(_what: str, _done: int, _of: int) -> None:
    """Progress that nobody reads."""


@pytest.mark.parametrize("bits", [8, 4])
def test_a_device_gives_what_the_emulator_gives(bits, tmp_path) -> None:
    options = SpikeOptions(group=32, block=32, weight_bits=bits, weight_group=0 if bits == 8 else 32)
    model = spiking_form(tiny_llama(**SHAPE), options)
    version = "sm_" + "".join(str(tvm.cuda(0).compute_version).split("."))
    result = CudaTarget().build(model, CompileConfig.of(target="cuda", arch=version), tmp_path, quiet)
    runner = CudaTarget().load(tmp_path, json.loads(json.dumps(result.manifest)))
    assert isinstance(runner, CudaRunner)
    emulated = EmulatedDecoder(model)
    want = emulated.call("score", TOKENS)
    np.testing.assert_allclose(runner.score(TOKENS), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    runner.reset()
    emulated.reset()
    token = int(runner.prefill(TOKENS[:4]).argmax())
    emulated.call("prefill", TOKENS[:4])
    following = runner.following(token, Sampler())
    assert [next(following) for _ in range(5)] == emulated.greedy(token, 5)


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
