"""Writes ``optimised/*.onnx``: models of this folder as onnxruntime's own optimisers save them.

    python tests/models/export_optimised.py [NAME ...]

Needs nothing but onnxruntime. Optimum's ``ORTOptimizer`` and Olive call the same functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime.transformers.optimizer import optimize_model

HERE = Path(__file__).parent
OUT = HERE / "optimised"


def saved(source: str) -> Callable[[Path], None]:
    """What a session computes with, saved: ``SessionOptions.optimized_model_filepath``."""

    def write(path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        # MatMulNBits made of QDQ weights then computes with float activations, as the tests compare with.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        onnxruntime.InferenceSession(HERE / f"{source}.onnx", options, providers=["CPUExecutionProvider"])

    return write


def fused(source: str, kind: str) -> Callable[[Path], None]:
    """The tool for transformers, ``onnxruntime.transformers.optimizer``, with its own fusions alone."""

    def write(path: Path) -> None:
        model = optimize_model(
            str(HERE / f"{source}.onnx"), model_type=kind, num_heads=4, hidden_size=32, opt_level=0
        )
        model.save_model_to_file(str(path))

    return write


MODELS: dict[str, Callable[[Path], None]] = {
    **{
        f"{kind}_saved": saved(f"{kind}_dynamo_op18")
        for kind in ("llama", "phi3", "gemma2", "gpt2", "gpt_neox", "opt", "falcon", "bert", "t5_encoder")
    },
    "llama_dynamic_int8_saved": saved("quantised/llama_dynamic_int8"),
    "gpt2_dynamic_int8_saved": saved("quantised/gpt2_dynamic_int8"),
    "bert_dynamic_int8_saved": saved("quantised/bert_dynamic_int8"),
    "llama_genai_int4_saved": saved("genai/llama_int4"),
    "llama_optimum_saved": saved("optimum/llama"),
    "llama_optimum_past_saved": saved("optimum/llama_past"),
    "phi3_optimum_past_saved": saved("optimum/phi3_past"),
    "llama_torchscript_saved": saved("torchscript/llama_op14"),
    "llama_qdq_int8_saved": saved("quantised/llama_qdq_int8"),
    "llama_qdq_int16_saved": saved("quantised/llama_qdq_int16"),
    "llama_qoperator_int8_saved": saved("quantised/llama_qoperator_int8"),
    "bert_qdq_int16_saved": saved("quantised/bert_qdq_int16"),
    "bert_fused": fused("torchscript/bert_op14", "bert"),
    "gpt2_fused": fused("optimum/gpt2_past", "gpt2"),
}


def main(names: list[str]) -> None:
    """Writes the named models, or all."""
    OUT.mkdir(exist_ok=True)
    for name in names or MODELS:
        path = OUT / f"{name}.onnx"
        MODELS[name](path)
        onnx.save(onnx.load(path), path)
        print(f"{name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
