"""What cannot be read or lifted is refused in one sentence that names the place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sdc.errors import InvalidModelError, NumericsError, UnsupportedOpError
from sdc.frontends.onnx import check_weights, load

MODELS = Path(__file__).parents[2] / "models"


def graph(nodes, initializers=(), inputs=("x",)) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in inputs]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(list(nodes), "g", values, [out], list(initializers))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def weight(values: np.ndarray, name: str = "w") -> TensorProto:
    return onnx.numpy_helper.from_array(values.astype(np.float32), name)


def external(name: str, location: str) -> TensorProto:
    proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4, 4])
    proto.data_location = TensorProto.EXTERNAL
    proto.external_data.add(key="location", value=location)
    proto.external_data.add(key="length", value="64")
    return proto


MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("keep", [0, 10, 1000, 50_000])
def test_a_truncated_file(tmp_path, keep) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((MODELS / "llama_dynamo_op18.onnx").read_bytes()[:keep])
    with pytest.raises(InvalidModelError, match=r"m\.onnx"):
        load(path)


def test_missing_file_and_missing_external_data(tmp_path) -> None:
    with pytest.raises(InvalidModelError, match="there is no such file"):
        load(tmp_path / "none.onnx")
    path = saved(graph([MATMUL], [external("w", "w.bin")]), tmp_path)
    with pytest.raises(InvalidModelError, match=r'weight "w" is in w\.bin, which is missing'):
        load(path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 60)
    with pytest.raises(InvalidModelError, match=r'w\.bin is too short for weight "w"'):
        load(path)
    (tmp_path / "w.bin").write_bytes(np.ones(16, np.float32).tobytes())
    assert load(path).params


@pytest.mark.parametrize("location", ["../secret.bin", "a/../../secret.bin", "{absolute}", "link.bin"])
@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_external_data_outside_the_models_folder_is_refused(tmp_path, location, where) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    tensor = external("w", location.format(absolute=tmp_path / "secret.bin"))
    constant = helper.make_node("Constant", [], ["w"], name="stored", value=tensor)
    inside = where == "attribute"
    model = graph([constant, MATMUL] if inside else [MATMUL], [] if inside else [tensor])
    with pytest.raises(InvalidModelError, match="points outside the model's folder"):
        load(saved(model, folder))


def test_operations_without_a_rule_are_listed_together(tmp_path) -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="/layers.3/foo", domain="com.acme"),
        helper.make_node("Det", ["a"], ["b"], name="determinant"),
        helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    with pytest.raises(UnsupportedOpError) as caught:
        load(saved(graph(nodes), tmp_path))
    assert len(caught.value.offenders) == 2
    assert 'node "/layers.3/foo" (op Foo, domain com.acme)' in str(caught.value)
    assert 'node "determinant" (op Det, domain ai.onnx)' in str(caught.value)


def test_unknown_attributes_are_listed_with_unknown_operations(tmp_path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first", slope=0.5),
        helper.make_node("Foo", ["a"], ["b"], name="second", domain="com.acme"),
        helper.make_node("Softmax", ["b"], ["y"], name="third", axis=-1, temperature=2.0),
    ]
    with pytest.raises(UnsupportedOpError) as caught:
        load(saved(graph(nodes), tmp_path))
    assert caught.value.offenders == (
        'node "first" (op Relu): unknown attribute slope',
        'node "third" (op Softmax): unknown attribute temperature',
        'node "second" (op Foo, domain com.acme)',
    )


def test_operations_of_onnxruntime_that_rules_refuse_are_listed_with_the_others(tmp_path) -> None:
    ort = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("QuickGelu", ["x"], ["a"], name="first", beta=1.0, **ort),
        helper.make_node("FusedGemm", ["a", "a"], ["b"], name="second", activation="Elu", **ort),
        helper.make_node("Foo", ["b"], ["c"], name="third", domain="com.acme"),
        helper.make_node("NGramRepeatBlock", ["b", "c"], ["y"], name="fourth", **ort),
    ]
    with pytest.raises(UnsupportedOpError) as caught:
        load(saved(graph(nodes), tmp_path))
    assert caught.value.offenders == (
        'node "first" (op QuickGelu, domain com.microsoft): attributes beta',
        'node "second" (op FusedGemm, domain com.microsoft): activation Elu',
        'node "third" (op Foo, domain com.acme)',
        'node "fourth" (op NGramRepeatBlock, domain com.microsoft)',
    )


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        (helper.make_node("Softmax", ["x"], ["y"], name="n", axis=1.5), "axis is of type FLOAT, not INT"),
        (helper.make_node("Cast", ["x"], ["y"], name="n"), "attribute to is missing"),
        (
            helper.make_node("Gelu", ["x"], ["y"], name="n", approximate="cubic"),
            'attribute approximate is "cubic", not none or tanh',
        ),
        (
            helper.make_node("Gelu", ["x"], ["y"], name="n", approximate=b"\xff"),
            "attribute approximate is",
        ),
        (helper.make_node("MatMul", ["x"], ["y"], name="n"), "1 inputs, not 2 to 2"),
        (helper.make_node("MatMul", ["", "w"], ["y"], name="n"), "input A is left out"),
        (helper.make_node("Relu", ["x"], ["y", "z"], name="n"), "2 outputs, not 1"),
        (helper.make_node("Add", ["x", "i"], ["y"], name="n"), "inputs of types FLOAT and INT64"),
        (helper.make_node("Gather", ["w", "x"], ["y"], name="n"), 'input indices "x" is of type FLOAT'),
        (helper.make_node("Concat", ["x", "w", "i"], ["y"], name="n", axis=0), "of types FLOAT and INT64"),
    ],
)
def test_what_breaks_the_specification_of_an_operation(tmp_path, node, complaint) -> None:
    whole = onnx.numpy_helper.from_array(np.ones((4, 4), np.int64), "i")
    model = graph([node], [weight(np.ones((4, 4))), whole])
    with pytest.raises(InvalidModelError, match='node "n"') as caught:
        load(saved(model, tmp_path))
    assert complaint in str(caught.value)


def test_an_opset_in_which_operations_meant_something_else(tmp_path) -> None:
    model = graph([helper.make_node("Softmax", ["x"], ["y"])])
    model.opset_import[0].version = 11
    with pytest.raises(InvalidModelError, match="opset 11, where Softmax meant something else"):
        load(saved(model, tmp_path))
    model.opset_import[0].version = 13
    assert load(saved(model, tmp_path)).module is not None


def test_a_dangling_input_and_a_cycle(tmp_path, caplog) -> None:
    nodes = [helper.make_node("Add", ["x", "nowhere"], ["y"], name="sum")]
    with pytest.raises(InvalidModelError, match="nowhere"):
        load(saved(graph(nodes), tmp_path))
    assert not caplog.records  # the error says it, once
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["a"], ["y"], name="third"),
    ]
    with pytest.raises(InvalidModelError, match="cycle"):
        load(saved(graph(nodes), tmp_path))


def test_widths_that_do_not_meet(tmp_path) -> None:
    with pytest.raises(InvalidModelError, match="x has 4 channels, weight 5"):
        load(saved(graph([MATMUL], [weight(np.ones((5, 3)))]), tmp_path))


def test_a_nan_weight_is_named_when_it_is_read(tmp_path) -> None:
    values = np.ones((4, 4))
    values[2, 1] = np.nan
    model = load(saved(graph([MATMUL], [weight(values, "w")]), tmp_path))
    with pytest.raises(NumericsError, match=r"w\.T: the weight holds NaN"):
        next(iter(model.params.values())).value()


def test_every_weight_is_checked_before_a_compile(tmp_path) -> None:
    values = np.ones((4, 4))
    values[0, 0] = np.inf
    seen: list[tuple[int, int]] = []
    model = load(saved(graph([MATMUL], [weight(values, "w")]), tmp_path))
    with pytest.raises(NumericsError, match="w"):
        check_weights(model, lambda done, total: seen.append((done, total)))
    fine = load(MODELS / "mlp_dynamo_op20.onnx")
    check_weights(fine, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(fine.params), len(fine.params))


@pytest.mark.parametrize("shape", [[2**40, 4], [2**20, 2**20]])
def test_an_absurd_shape_of_an_input_or_a_weight(tmp_path, shape) -> None:
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, raw_data=b"1234")
    with pytest.raises(InvalidModelError, match='weight "w" has the shape'):
        load(saved(graph([MATMUL], [huge]), tmp_path))
    model = graph([MATMUL], [weight(np.ones((4, 4)))])
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for size in shape:
        model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=size)
    with pytest.raises(InvalidModelError, match='input "x" has the shape'):
        load(saved(model, tmp_path))


def test_a_weight_with_fewer_bytes_than_its_shape(tmp_path) -> None:
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], raw_data=b"\0" * 60)
    with pytest.raises(InvalidModelError, match='weight "w" has 60 bytes of data'):
        load(saved(graph([MATMUL], [short]), tmp_path))


def test_inputs_that_are_no_tensors_of_numbers(tmp_path) -> None:
    model = graph([helper.make_node("Identity", ["x"], ["y"])])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(InvalidModelError, match='input "x" is of type STRING'):
        load(saved(model, tmp_path))


def test_a_link_may_lead_to_the_blobs_of_the_same_cache_alone(tmp_path) -> None:
    """As huggingface_hub lays its cache out."""
    repository = tmp_path / "models--org--tiny"
    folder, blobs, other = repository / "snapshots" / "abc" / "onnx", repository / "blobs", tmp_path / "blobs"
    for each in (folder, blobs, other):
        each.mkdir(parents=True)
        (each / "1f").write_bytes(np.ones((4, 4), np.float32).tobytes())
    (folder / "m.onnx_data").symlink_to("../../../blobs/1f")
    path = saved(graph([MATMUL], [external("w", "m.onnx_data")]), folder)
    (param,) = load(path).params.values()
    np.testing.assert_array_equal(param.value(), np.ones((4, 4)))
    (folder / "m.onnx_data").unlink()
    (folder / "m.onnx_data").symlink_to(other / "1f")
    with pytest.raises(InvalidModelError, match="points outside the model's folder"):
        load(path)
    path = saved(graph([MATMUL], [external("w", "../../../blobs/1f")]), folder)
    with pytest.raises(InvalidModelError, match="points outside the model's folder"):
        load(path)


def test_a_weight_without_a_type(tmp_path) -> None:
    nothing = weight(np.ones((4, 4)))
    nothing.data_type = TensorProto.UNDEFINED
    with pytest.raises(InvalidModelError, match='weight "w" has no type'):
        load(saved(graph([MATMUL], [nothing]), tmp_path))


@pytest.mark.parametrize("number", [float("nan"), 1e30])
def test_an_attribute_that_is_no_sensible_number(tmp_path, number) -> None:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], name="act", alpha=number)
    with pytest.raises(InvalidModelError, match=r'node "act" .* attribute alpha is .* float32'):
        load(saved(graph([node]), tmp_path))


def test_a_product_of_vectors_where_matrices_belong(tmp_path) -> None:
    total = helper.make_node("ReduceMax", ["x", "axes"], ["v"], name="max", keepdims=0)
    axes = onnx.numpy_helper.from_array(np.array([0]), "axes")
    node = helper.make_node("Gemm", ["v", "w"], ["y"], name="gemm")
    with pytest.raises(InvalidModelError, match=r'node "gemm" .* its factors are not matrices'):
        load(saved(graph([total, node], [weight(np.ones((4, 4))), axes]), tmp_path))
