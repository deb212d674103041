"""What is said of a rotary embedding: for real exports of every scaling, and for tables made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdc.frontends.onnx import load
from sdc.frontends.onnx.lift.rotary_kind import rotary_kind

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("llama_dynamo_op18", "half-split, base 10,000"),
        ("llama_dynamo_op18_fp16", "half-split, base 10,000"),
        ("optimum/linear_llama_past", "half-split, base 10,000, positions divided by 4"),
        ("llama3_dynamo_op18", "half-split, slow channels scaled as for Llama 3 or YaRN"),
        ("yarn_llama_dynamo_op18", "half-split, slow channels scaled as for YaRN, amplitude 1.139"),
        ("gemma3_dynamo_op18", "half-split, base 10,000; half-split, base 1,000,000"),
    ],
)
def test_kinds_of_real_exports(name, kind) -> None:
    info = load(MODELS / f"{name}.onnx", max_seq=16).info
    assert info.rope == kind
    assert info.parameters < 25_000  # without the tables


def test_tables_that_say_little() -> None:
    angles = np.arange(4)[:, None] * np.array([1.0, 0.1, 0.01])
    assert rotary_kind(np.cos(angles), np.sin(angles)) == "base 1,000"
    assert rotary_kind(np.cos(angles[:1]), np.sin(angles[:1])) == ""  # no second position
    assert rotary_kind(np.cos(-angles), np.sin(-angles)) == "of a kind of its own"
