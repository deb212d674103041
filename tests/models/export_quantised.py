"""Writes ``quantised/*.onnx``: float models of this folder after onnxruntime's own quantisers.

    python tests/models/export_quantised.py [NAME ...]

Needs nothing but onnxruntime. Olive's quantisation passes call the same functions.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

HERE = Path(__file__).parent
OUT = HERE / "quantised"
VOCABULARY, SEQ, WINDOWS = 96, 17, 16


class Tokens(CalibrationDataReader):
    """Random tokens; the first windows are those of the tests, so that nothing there is out of range."""

    def __init__(self, path: Path) -> None:
        names = [i.name for i in onnx.load(path).graph.input]
        self.batches: Iterator[dict[str, Any]] = iter([self._feed(names, index) for index in range(WINDOWS)])

    @staticmethod
    def _feed(names: list[str], index: int) -> dict[str, Any]:
        ids = np.random.default_rng(index // 2).integers(0, VOCABULARY, (2, SEQ))[[index % 2]]
        return {name: ids if name == "input_ids" else np.ones_like(ids) for name in names}

    def get_next(self) -> dict[str, Any] | None:
        """The next window, or None after the last."""
        return next(self.batches, None)


def dynamic(source: str, **options: Any) -> Callable[[Path], None]:
    """Activations quantised as they come: DynamicQuantizeLinear and MatMulInteger."""

    def write(path: Path) -> None:
        quantize_dynamic(HERE / f"{source}.onnx", path, **options)

    return write


def static(source: str, **options: Any) -> Callable[[Path], None]:
    """Activations quantised by calibrated scales: QuantizeLinear and DequantizeLinear, or QLinearMatMul."""

    def write(path: Path) -> None:
        original = HERE / f"{source}.onnx"
        quantize_static(original, path, Tokens(original), **options)

    return write


QDQ: dict[str, Any] = {"quant_format": QuantFormat.QDQ, "weight_type": QuantType.QInt8}
WIDE: dict[str, Any] = QDQ | {"activation_type": QuantType.QUInt16}
MATMUL: dict[str, Any] = {"op_types_to_quantize": ["MatMul"]}

MODELS: dict[str, Callable[[Path], None]] = {
    "llama_dynamic_int8": dynamic("llama_dynamo_op18", weight_type=QuantType.QInt8),
    "llama_dynamic_uint8_per_channel": dynamic(
        "llama_dynamo_op18", weight_type=QuantType.QUInt8, per_channel=True
    ),
    "qwen2_dynamic_int8": dynamic("qwen2_dynamo_op18", weight_type=QuantType.QInt8, per_channel=True),
    "gpt2_dynamic_int8": dynamic("gpt2_dynamo_op18", weight_type=QuantType.QInt8, per_channel=True),
    "bert_dynamic_int8": dynamic("bert_dynamo_op18", weight_type=QuantType.QInt8, per_channel=True),
    "llama_qdq_int8": static("llama_dynamo_op18", **QDQ, **MATMUL, activation_type=QuantType.QUInt8),
    "llama_qdq_int8_per_channel": static(
        "llama_dynamo_op18", **QDQ, **MATMUL, activation_type=QuantType.QInt8, per_channel=True
    ),
    "llama_qdq_int16": static("llama_dynamo_op20", **WIDE, **MATMUL, per_channel=True),
    "gpt2_qdq_int16": static("gpt2_dynamo_op18", **WIDE, op_types_to_quantize=["Gemm", "MatMul"]),
    "qwen2_qdq_int16": static("qwen2_dynamo_op18", **WIDE, **MATMUL, per_channel=True),
    "bert_qdq_int16": static("bert_dynamo_op18", **WIDE, **MATMUL, per_channel=True),
    "llama_qdq_int16_weights_paired": static(
        "llama_dynamo_op18", **WIDE, **MATMUL, extra_options={"AddQDQPairToWeight": True}
    ),
    "llama_qoperator_int8": static(
        "llama_dynamo_op18",
        quant_format=QuantFormat.QOperator,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8,
        **MATMUL,
    ),
}


def main(names: list[str]) -> None:
    """Writes the named models, or all."""
    OUT.mkdir(exist_ok=True)
    for name in names or MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "m.onnx"
            MODELS[name](path)
            onnx.save(onnx.load(path), OUT / f"{name}.onnx")
        print(f"{name}: {(OUT / f'{name}.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
