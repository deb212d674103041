"""What the rules for onnxruntime's own operations share: replacing a node by several standard ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from sdc.errors import UnsupportedOpError

__all__ = ["REFUSED_NODES", "Outputs", "allow", "constant", "given", "places", "refuse", "replace_nodes"]

REFUSED_NODES = "sdc.refused_nodes"  # where a model carries nodes, and why rules refused them

Outputs = Sequence[ir.Value | None]


DOMAINS = ("com.microsoft", "")  # onnxruntime has a few operations of its own in the default domain too


def replace_nodes(
    model: ir.Model,
    rules: Mapping[str, Callable[[Tape, ir.Node], Outputs]],
    domains: Collection[str] = DOMAINS,
) -> int:
    """Replaces each node by what the rule for its operation puts on a tape; returns how many.

    Args:
        model: Changed in place.
        rules: By operation. A rule returns a value for each output of the node, None for one that nobody may
            read.
        domains: Where the operations are looked for.

    A node that its rule refuses stays; the lifting lists all of them at once, from ``model.meta``.
    """
    count = 0
    refused: list[tuple[ir.Node, tuple[str, ...]]] = model.meta.setdefault(REFUSED_NODES, [])
    for node in list(model.graph):
        if node.op_type not in rules or node.domain not in domains:
            continue
        try:
            _replace(model, node, rules[node.op_type])
            count += 1
        except UnsupportedOpError as error:
            refused.append((node, error.offenders))
    return count


def _replace(model: ir.Model, node: ir.Node, rule: Callable[[Tape, ir.Node], Outputs]) -> None:
    """Puts what the rule makes in the node's place.

    Raises:
        UnsupportedOpError: The rule refuses the node, or something reads an output that it does not make.
    """
    tape = Tape()
    made = rule(tape, node)
    made = [*made, *[None] * (len(node.outputs) - len(made))]
    for index, old in enumerate(node.outputs):
        if made[index] is None and (old.uses() or old.is_graph_output()):
            raise refuse(node, f"its output {index} is read")
    model.graph.insert_before(node, tape.nodes)
    for old, new in zip(node.outputs, made, strict=False):
        if new is not None:
            new.dtype, new.shape = old.dtype or new.dtype, old.shape or new.shape
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def given(node: ir.Node, index: int) -> ir.Value | None:
    """An input that may be left out; exporters write an empty name for it, or end the list before it."""
    return node.inputs[index] if index < len(node.inputs) else None


def allow(node: ir.Node, attributes: Collection[str], inputs: Collection[int]) -> None:
    """Checks that a node asks for nothing that a rule does not know.

    Args:
        node: The node.
        attributes: Names of attributes that are handled, or that change nothing.
        inputs: Indices of the inputs that are handled; any other must be left out.

    Raises:
        UnsupportedOpError: It does.
    """
    unknown = sorted(set(node.attributes) - set(attributes))
    if unknown:
        raise refuse(node, f"attributes {', '.join(unknown)}")
    extra = [i for i, value in enumerate(node.inputs) if value is not None and i not in inputs]
    if extra:
        raise refuse(node, f"inputs {', '.join(map(str, extra))}")


def constant(tape: Tape, values: Sequence[int] | int) -> ir.Value:
    """An int64 constant on a tape."""
    return tape.op("Constant", [], {"value": ir.tensor(np.array(values, np.int64))})


def refuse(node: ir.Node, why: str) -> UnsupportedOpError:
    """The error for a node of onnxruntime's."""
    return UnsupportedOpError([f'node "{node.name}" (op {node.op_type}, domain {node.domain}): {why}'])


def places(tape: Tape, x: ir.Value | None) -> ir.Value:
    """int64 [seq] positions from 0 on, along axis 1 of x [batch, seq, ...]."""
    seq = tape.op("Squeeze", [tape.op("Shape", [x], {"start": 1, "end": 2})])
    return tape.op("Range", [constant(tape, 0), seq, constant(tape, 1)])
