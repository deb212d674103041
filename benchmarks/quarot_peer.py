"""QuaRot-like W4A4 by Brevitas, an independent implementation, on the protocol of ``sdc eval``.

python -P benchmarks/quarot_peer.py MODEL.gguf --text TEXT --calibration TEXT [--head]
    [--nearest] [--windows 16] [--window 256]

Needs an environment of its own: pip install brevitas torch transformers gguf onnx datasets accelerate.
With -P, as a module of this folder has the name of a package that transformers looks for.
What Brevitas is asked for (its LLM program, ``brevitas_examples.llm``): RMS gains merged, the residual stream
rotated by a random Hadamard matrix, values rotated per head, a Hadamard transform before down_proj; GPTQ in
groups of 96 (the largest up to 128 that divides 576 and 1536); activations symmetric, one scale a token.
Attention products stay float; ``--head`` quantises the head too. Compare with ``preset quarot`` at
``weight_group`` 96 with 8-bit queries, keys and values. Prints perplexities and their ratio as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from brevitas_examples.llm import main as brevitas_llm
from brevitas_examples.llm.llm_args import create_args_parser
from brevitas_examples.llm.llm_quant import gpxq
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW, WINDOWS = 512, 8  # of the text that is measured
OPTIONS = (
    "--eval --weight-bit-width 4 --weight-group-size 96 --weight-quant-type sym --weight-param-method mse "
    "--input-bit-width 4 --input-quant-type sym --input-scale-type dynamic --input-quant-granularity per_row "
    "--rotation fused_no_fx --rotation-orphan-sink --rotation-sdpa-regions --replace-rmsnorm "
    "--dtype float32"
)
GPTQ = "--gptq --gpxq-act-order --gpxq-use-quant-activations --gpxq-block-name model.layers"


def main() -> None:
    """Measures, and prints one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--nearest", action="store_true", help="round weights to the nearest, no GPTQ")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--window", type=int, default=256)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _converted(given.model, folder)
        measured = _windows(tokenizer, given.text, WINDOWS, WINDOW, spread=False)
        calibration = _windows(tokenizer, given.calibration, given.windows, given.window, spread=True)
        splits = {"train": calibration}

        def dataset(*_: Any, split: str, **_rest: Any) -> list[dict[str, list[list[int]]]]:
            return [{"input_ids": [window]} for window in splits.get(split, measured)]

        brevitas_llm.get_dataset_for_model = dataset
        brevitas_llm.compute_perplexity = _perplexity
        gpxq.send_to_device = lambda values, _gpu: values  # it takes a GPU for granted
        options = f"--model {folder} --seqlen {WINDOW} --nsamples {given.windows} {OPTIONS}".split()
        options += ["--quantize-last-layer"] if given.head else []
        options += [] if given.nearest else GPTQ.split()
        found, _ = brevitas_llm.quantize_llm(create_args_parser().parse_args(options), [])
    ratio = found["quant_ppl"] / found["float_ppl"]
    print(json.dumps({"float": found["float_ppl"], "w4a4": found["quant_ppl"], "ratio": ratio}))


def _converted(model: Path, folder: str) -> Any:
    """The GGUF as a folder that transformers reads, weights in float32; its tokenizer."""
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(model.parent),
        "gguf_file": model.name,
    }
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    loaded.config.__dict__.pop("quantization_config", None)  # it is float32 by now, and may be saved as such
    plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _windows(tokenizer: Any, text: Path, count: int, size: int, *, spread: bool) -> list[list[int]]:
    """Windows of a text: its first ones, or spread over it as ``sdc compile`` does."""
    tokens = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    last = len(tokens) - size
    starts = [int(last * i / (count - 1)) for i in range(count)] if spread else range(0, count * size, size)
    return [tokens[start : start + size] for start in starts]


@torch.no_grad()
def _perplexity(model: Any, data: Sequence[dict[str, torch.Tensor]], **_: Any) -> float:
    """As ``sdc eval``: every token of a window but the first is predicted."""
    losses = []
    for sample in data:
        tokens = sample["input_ids"]
        logits = model(input_ids=tokens)["logits"][0, :-1].double()
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).item())
    return math.exp(sum(losses) / len(losses))


if __name__ == "__main__":
    main()
