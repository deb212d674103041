"""What is said about a file before it is compiled."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from helpers.tiny_gguf import write_tiny_gguf
from onnx import TensorProto, helper

from sdc.errors import InvalidModelError
from sdc.frontends.gguf import to_onnx
from sdc.frontends.onnx import describe

MODELS = Path(__file__).parents[2] / "models"


def test_a_decoder_with_everything_that_was_matched() -> None:
    found = describe(MODELS / "llama_dynamo_past_op18.onnx", max_seq=16)
    assert (found.flavour, found.info.kind, found.info.opset) == ("torch dynamo", "decoder", 18)
    assert (found.info.layers, found.info.heads, found.info.kv_heads, found.info.vocab) == (2, 4, 2, 96)
    assert found.matched == {"RMSNormalization": 5, "RotaryEmbedding": 4, "Attention": 2, "repeated heads": 4}
    assert found.lifted["sdc.linear"] == 15
    assert found.lifted["sdc.attention"] == 2
    assert "RMSNormalization" not in found.nodes
    assert found.inputs[0] == "input_ids: INT64[batch,seq]"
    assert found.unsupported == ()
    assert json.loads(json.dumps(found.as_dict()))["weight_bytes"] == found.weight_bytes > 80_000


def test_a_stateless_graph_and_a_file_of_ours(tmp_path) -> None:
    assert describe(MODELS / "mlp_dynamo_op20.onnx").info.kind == "stateless"
    write_tiny_gguf(tmp_path / "m.gguf", tied=True)
    found = describe(to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx"), max_seq=16)
    assert (found.flavour, found.info.opset) == ("sdc GGUF", 24)


def test_what_cannot_be_lifted_is_said_and_what_cannot_be_read_is_refused(tmp_path) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4, 4]) for n in "xy")
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y])), tmp_path / "m.onnx")
    found = describe(tmp_path / "m.onnx")
    assert found.unsupported == ('node "determinant" (op Det, domain ai.onnx)',)
    assert found.lifted == {}
    with pytest.raises(InvalidModelError):
        describe(tmp_path / "none.onnx")
