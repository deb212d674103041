"""Mixtures of experts: weights that a router picks become one linear layer of all, and a pick of its outputs.

``MatMul(GatherND(W [experts, out, in], chosen [rows, 1]), x [rows, in, 1])`` (Hugging Face's batched experts)
becomes ``MatMul(x, W of all experts)``, then for each row the outputs of its expert. The weights are then
those of a linear layer like any other, fixed when compiling; but every expert is computed for every row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["spread_experts"]


def spread_experts(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    count = 0
    for node in list(model.graph):
        found = _match(node)
        if found is not None:
            _replace(node, *found)
            count += 1
    return count


def _match(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Weights [experts, out, in], chosen [rows, 1], x [rows, in] of a product with picked weights."""
    if node.op_type != "MatMul" or node.domain:
        return None
    pick, column = _producer(node.inputs[0], "GatherND"), _producer(node.inputs[1], "Unsqueeze")
    if pick is None or column is None or pick.attributes.get_int("batch_dims", 0):
        return None
    weights, chosen, x = pick.inputs[0], pick.inputs[1], column.inputs[0]
    constant = ir.convenience.get_const_tensor(weights) if weights is not None else None
    if weights is None or constant is None or len(constant.shape) != 3 or chosen is None or x is None:
        return None
    if _axes(column) not in ([-1], [2]) or chosen.shape is None or len(chosen.shape) != 2:
        return None
    return weights, chosen, x


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and not node.domain else None


def _axes(node: ir.Node) -> list[int] | None:
    constant = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    return None if constant is None else [int(a) for a in constant.numpy().reshape(-1)]


def _replace(node: ir.Node, weights: ir.Value, chosen: ir.Value, x: ir.Value) -> None:
    tensor = ir.convenience.get_const_tensor(weights)
    assert tensor is not None
    experts, out, width = (int(d) for d in tensor.shape)
    name = str(node.name)

    def made(op: str, inputs: list[ir.Value], what: str, **attributes: int | list[int]) -> ir.Node:
        new = ir.node(op, inputs, attributes, name=f"{name}_{what}")
        new.outputs[0].name = new.name
        nodes.append(new)
        return new

    def numbers(values: list[int], what: str) -> ir.Value:
        constant = ir.node("Constant", [], {"value": ir.tensor(np.array(values, np.int64))})
        constant.name = constant.outputs[0].name = f"{name}_{what}"
        nodes.append(constant)
        return constant.outputs[0]

    nodes: list[ir.Node] = []
    rows = made("Reshape", [weights, numbers([experts * out, width], "shape")], "experts")
    turned = made("Transpose", [rows.outputs[0]], "experts_turned", perm=[1, 0])
    every = made("MatMul", [x, turned.outputs[0]], "every_expert")
    apart = made("Reshape", [every.outputs[0], numbers([-1, experts, out], "apart_shape")], "apart")
    picked = made("GatherND", [apart.outputs[0], chosen], "picked", batch_dims=1)
    column = made("Unsqueeze", [picked.outputs[0], numbers([-1], "axes")], "column")
    column.outputs[0].shape, column.outputs[0].dtype = node.outputs[0].shape, node.outputs[0].dtype
    assert node.graph is not None
    node.graph.insert_after(node, nodes)
    ir.convenience.replace_all_uses_with(node.outputs[0], column.outputs[0])
