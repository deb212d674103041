"""Writes ``genai/*.onnx`` with the model builder of onnxruntime-genai, as its users call it.

    python tests/models/export_genai.py [NAME ...]

Needs onnxruntime-genai, torch and transformers (versions in README.md). The tests only read the files.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import architectures
import onnx
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent / "genai"

# At its default accuracy level for CPUs, 4, onnxruntime rounds activations to 8 bits; at 1 it does not.
EXACT = {"accuracy_level": "1"}

# name -> (architecture, precision, execution provider, extra options of the builder)
MODELS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    **{
        f"{kind}_fp32": (kind, "fp32", "cpu", {})
        for kind in ("llama", "llama3", "mistral", "qwen2", "qwen3", "phi3", "gemma2")
    },
    **{
        f"{kind}_int4": (kind, "int4", "cpu", {"block_size": "32", **EXACT})
        for kind in ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2")
    },
    "llama_fp16": ("llama", "fp16", "cuda", {}),
    "llama_int4_fp16": ("llama", "int4", "cuda", {"block_size": "32"}),
    "llama_int4_rounded": ("llama", "int4", "cpu", {"block_size": "32"}),
    "llama_int4_zero_points": (
        "llama",
        "int4",
        "cpu",
        {"block_size": "16", "is_symmetric": "false", **EXACT},
    ),
    "llama_int4_shared_embeddings": (
        "llama_tied",
        "int4",
        "cpu",
        {"block_size": "32", "shared_embeddings": "true", **EXACT},
    ),
    "llama_int4_qdq": ("llama", "int4", "cpu", {"block_size": "32", "use_qdq": "true"}),
    "llama_int8": ("llama", "int8", "cpu", {"block_size": "32", **EXACT}),
    "llama_int4_block128": ("llama", "int4", "cpu", {"block_size": "128", **EXACT}),
    "llama_int8_zero_points": (
        "llama",
        "int8",
        "cpu",
        {"block_size": "16", "is_symmetric": "false", **EXACT},
    ),
    "llama_split_qkv": ("llama", "fp32", "cpu", {"disable_qkv_fusion": "true"}),
    "llama_dml_fp16": ("llama", "fp16", "dml", {}),
    "llama_mha_fp16": ("llama", "fp16", "cpu", {}),
    "qwen3_fused_qk_norm": ("qwen3", "fp32", "cpu", {"fuse_qk_norm_gqa": "true"}),
}


def checkpoint(kind: str, folder: Path) -> None:
    """A Hugging Face folder of the architecture: weights, configuration, and a tokenizer of 96 words.

    Heads have 16 channels: onnxruntime's GroupQueryAttention takes multiples of 16. Phi-3 gets another width:
    the builder takes a layer of as many outputs as there are words for the head.
    """
    changes = {"head_dim": 16} | ({"intermediate_size": 40} if kind == "phi3" else {})
    architectures.build(kind, **changes).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w2").save_pretrained(folder)


def export(name: str) -> None:
    """One run of the builder; the weights go into the file."""
    kind, precision, provider, options = MODELS[name]
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "hf", Path(scratch) / "out"
        checkpoint(kind, source)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(source), "-o", str(out), "-p", precision, "-e", provider]
        command += ["-c", str(Path(scratch) / "cache")]
        if options:
            command += ["--extra_options", *(f"{k}={v}" for k, v in options.items())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-1500:]}")
        proto = onnx.load(out / "model.onnx")
    onnx.save(proto, HERE / f"{name}.onnx")


def main(names: list[str]) -> None:
    """Writes the named models, or all."""
    for name in names or MODELS:
        export(name)
        print(f"{name}: {(HERE / f'{name}.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
