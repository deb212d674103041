"""Writes one model of SmolLM2's size with every real exporter, for ``benchmarks/import.py``.

    python tests/models/export_full_size.py FOLDER NAME [NAME ...] [--model HF_FOLDER]

Without ``--model`` the weights are random. Needs the exporters (versions in README.md): torch and
transformers 5 for ``dynamo*``, onnxruntime-genai besides for ``genai_*``, optimum-onnx with transformers 4
for ``optimum*``, which therefore live in two environments.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# SmolLM2-135M; see https://huggingface.co/HuggingFaceTB/SmolLM2-135M
SIZES: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def dynamo(opset: int, past: bool, source: Path, out: Path) -> None:
    """The dynamo exporter, as the tests' models are written."""
    from export_torch import CachedLogits, Logits

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    config, batch, seq, old = model.config, 2, 5, 3
    ids = torch.arange(batch * seq).reshape(batch, seq)
    kinds = [(i, kind) for i in range(config.num_hidden_layers) for kind in ("key", "value")]
    size = (batch, config.num_key_value_heads, old, config.hidden_size // config.num_attention_heads)
    args: tuple[Any, ...] = (ids,)
    names, outputs, shapes = ["input_ids"], ["logits"], ({0: "batch", 1: "seq"},)
    if past:
        args = (ids, torch.ones(batch, old + seq, dtype=torch.int64), *(torch.randn(size) for _ in kinds))
        names += ["attention_mask", *(f"past_key_values.{i}.{k}" for i, k in kinds)]
        outputs += [f"present.{i}.{k}" for i, k in kinds]
        dims = {name: torch.export.Dim(name) for name in ("batch", "seq", "past")}
        row, auto = {0: dims["batch"], 1: dims["seq"]}, torch.export.Dim.AUTO
        cache = tuple({0: dims["batch"], 2: dims["past"]} for _ in kinds)
        shapes = (row, {0: dims["batch"], 1: auto}, cache)
    program = torch.onnx.export(
        CachedLogits(model) if past else Logits(model),
        args,
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=names,
        output_names=outputs,
        dynamic_shapes=shapes,
    )
    program.save(str(out / "model.onnx"), external_data=True)


def genai(precision: str, provider: str, options: tuple[str, ...], source: Path, out: Path) -> None:
    """The model builder of ONNX Runtime GenAI."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(out)]
    with tempfile.TemporaryDirectory() as scratch:
        command += ["-p", precision, "-e", provider, "-c", scratch]
        subprocess.run(command + (["--extra_options", *options] if options else []), check=True)


def optimum(task: str, source: Path, out: Path) -> None:
    """What ``optimum-cli export onnx`` calls."""
    from optimum.exporters.onnx import main_export

    main_export(str(source), str(out), task=task, opset=18, do_validation=False)


MODELS: dict[str, Callable[[Path, Path], None]] = {
    "dynamo_op18": partial(dynamo, 18, False),
    "dynamo_op23": partial(dynamo, 23, False),
    "dynamo_past_op18": partial(dynamo, 18, True),
    "genai_fp32": partial(genai, "fp32", "cpu", ()),
    "genai_fp16": partial(genai, "fp16", "cuda", ()),
    "genai_int4": partial(genai, "int4", "cpu", ("block_size=32",)),
    "genai_int8": partial(genai, "int8", "cpu", ("block_size=32",)),
    "optimum": partial(optimum, "text-generation"),
    "optimum_past": partial(optimum, "text-generation-with-past"),
}


def checkpoint(folder: Path) -> None:
    """A Hugging Face folder of random weights."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(SIZES["vocab_size"])}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w2").save_pretrained(folder)


def main() -> None:
    """Writes the named models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets a folder for each model")
    parser.add_argument("names", nargs="+", choices=MODELS)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = options.model or Path(scratch)
        if options.model is None:
            checkpoint(source)
        for name in options.names:
            out = options.folder / name
            out.mkdir(parents=True, exist_ok=True)
            MODELS[name](source, out)
            print(f"{name}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
