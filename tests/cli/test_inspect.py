"""``sdc inspect`` of model files: what they are, what was matched, would be rewritten, is missing."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

MODELS = Path(__file__).parents[1] / "models"


def inspected(command, path: Path) -> dict:
    status, out, _ = command("inspect", path, "--json")
    assert status == 0
    return json.loads(out)


def test_a_decoder(command) -> None:
    found = inspected(command, MODELS / "gemma2_dynamo_op23.onnx")
    facts = ("kind", "opset", "layers", "heads", "kv_heads", "head_dim", "vocab", "rope", "flavour")
    wanted = ["decoder", 23, 2, 4, 2, 8, 96, "half-split, base 10,000", "torch dynamo"]
    assert [found[name] for name in facts] == wanted
    assert found["exporter"].startswith("pytorch 2.13")
    assert found["matched"] == {"Attention": 2, "hidden scores": 2, "repeated heads": 4}
    products = [p for p in found["parts"] if p["kind"] in ("sdc.linear", "sdc.attention")]
    assert sum(p["count"] for p in products) == 17
    assert {p["becomes"].split(",")[0].split(":")[0] for p in products} == {"spike_encode", "spike_attention"}
    assert any("window 4, softcap 2" in p["detail"] for p in products)
    assert [n for n in found["notes"] if "keep their gain" in n]


def test_an_encoder_has_facts_too(command) -> None:
    found = inspected(command, MODELS / "bert_dynamo_op18.onnx")
    assert [found[n] for n in ("kind", "layers", "heads", "hidden", "vocab")] == ["stateless", 2, 4, 32, 96]
    out = command("inspect", MODELS / "bert_dynamo_op18.onnx")[1]
    assert "input_ids: INT64[batch,seq]" in out
    assert "what would be rewritten" in out


@pytest.mark.parametrize("form", ["--json", None])
def test_what_is_missing_is_listed(command, tmp_path, form) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4, 4]) for n in "xy")
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y])), tmp_path / "m.onnx")
    status, out, _ = command("inspect", tmp_path / "m.onnx", *([form] if form else []))
    assert status == 0
    assert "determinant" in out
    assert "op Det" in out
