"""Nodes checked against the ONNX specification as the ``onnx`` package has it: attributes, inputs, types."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

import onnx
import onnx_ir as ir

__all__ = [
    "OLDEST_OPSET",
    "UNKNOWN_ATTRIBUTES",
    "changed_operations",
    "misused_operations",
    "unknown_attributes",
]

OLDEST_OPSET = 13  # before it, Softmax and others meant something else

UNKNOWN_ATTRIBUTES = "sdc.unknown_attributes"  # where a model carries them to the lifting, which lists them
FLAGS = frozenset(["allowzero", "exclusive", "interleaved", "is_causal", "keepdims", "largest"])
FLAGS |= {"noop_with_empty_axes", "reverse", "sorted", "transA", "transB", "upper"}
WORDS = {("Gelu", "approximate"): ("none", "tanh")}  # of the operations that have a lifting rule
LARGEST = 1e19  # its square is beyond float32
Formal = onnx.defs.OpSchema.FormalParameterOption


def unknown_attributes(model: ir.Model) -> tuple[str, ...]:
    """A line for each node with attributes that the specification of its operation does not know."""
    lines = []
    for node, schema in _standard_nodes(model):
        names = ", ".join(sorted(set(node.attributes) - set(schema.attributes)))
        if names:
            lines.append(f"{_where(node)}: unknown attribute {names}")
    return tuple(lines)


def changed_operations(model: ir.Model) -> tuple[str, ...]:
    """Operations whose specification in the model's opset is older than that of :data:`OLDEST_OPSET`."""
    changed = {
        node.op_type
        for node, schema in _standard_nodes(model)
        if (newer := _schema(node.op_type, OLDEST_OPSET)) and newer.since_version > schema.since_version
    }
    return tuple(sorted(changed))


def misused_operations(model: ir.Model) -> tuple[str, ...]:
    """A line for each standard node that breaks its specification.

    Attributes that are missing, of another type, NaN or absurdly large; too few or too many inputs or
    outputs; inputs of a type that the operation does not take, or of two types where it takes one. Values
    without a declared type pass.
    """
    lines = []
    for node, schema in _standard_nodes(model):
        complaints = [*_attributes(node, schema), *_counts(node, schema), *_types(node, schema)]
        if complaints:
            lines.append(f"{_where(node)}: {', '.join(complaints)}")
    return tuple(lines)


def _where(node: ir.Node) -> str:
    return f'node "{node.name}" (op {node.op_type})'


def _standard_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, Any]]:
    """Nodes of the graph, its subgraphs and functions that the specification knows, with their schemas."""
    opset = int(model.opset_imports.get("", 0))
    graphs = [(model.graph, opset)]
    graphs += [(f.graph, int(f.opset_imports.get("", opset))) for f in model.functions.values()]
    for graph, version in graphs:
        for node in ir.traversal.RecursiveGraphIterator(graph):
            schema = _schema(node.op_type, version) if not node.domain else None
            if schema is not None:
                yield node, schema


@cache
def _schema(op: str, version: int) -> Any:
    """The specification of a standard operation; None where this version of the standard has no such one."""
    known: Any = onnx.defs
    version = min(max(version, 0), known.onnx_opset_version())
    return known.get_schema(op, version, "") if known.has(op, version, "") else None


def _attributes(node: ir.Node, schema: Any) -> Iterator[str]:
    for name, formal in schema.attributes.items():
        given = node.attributes.get(name)
        if given is None:
            if formal.required:
                yield f"attribute {name} is missing"
        elif not given.is_ref() and given.type.name != formal.type.name:
            yield f"attribute {name} is of type {given.type.name}, not {formal.type.name}"
        elif name in FLAGS and not given.is_ref() and given.as_int() not in (0, 1):
            yield f"attribute {name} is {given.as_int()}, not 0 or 1"
        elif (word := _other_word(node, given)) is not None:
            yield f'attribute {name} is "{word}", not {" or ".join(WORDS[node.op_type, name])}'
        elif _is_absurd(node, given):
            yield f"attribute {name} is {given.as_float()}, which float32 cannot compute with"


def _other_word(node: ir.Node, attribute: ir.Attr) -> str | None:
    """The value of an attribute that takes certain words, where it is none of them."""
    words = WORDS.get((node.op_type, attribute.name))
    if words is None or attribute.is_ref() or attribute.value in words:
        return None
    return str(attribute.value)  # of bytes that are no text, too


def _is_absurd(node: ir.Node, attribute: ir.Attr) -> bool:
    """Whether a number is NaN or absurdly large; constants may be, in masks."""
    if attribute.is_ref() or attribute.type != ir.AttributeType.FLOAT or node.op_type == "Constant":
        return False
    return not abs(attribute.as_float()) <= LARGEST  # so written, NaN too


def _counts(node: ir.Node, schema: Any) -> Iterator[str]:
    inputs = len(node.inputs)
    while inputs and node.inputs[inputs - 1] is None:
        inputs -= 1
    if not schema.min_input <= inputs <= schema.max_input:
        yield f"{inputs} inputs, not {schema.min_input} to {schema.max_input}"
    if len(node.outputs) > schema.max_output:
        yield f"{len(node.outputs)} outputs, not {schema.max_output}"
    for value, formal in zip(node.inputs, schema.inputs, strict=False):
        if value is None and formal.option != Formal.Optional:
            yield f"input {formal.name} is left out"


def _types(node: ir.Node, schema: Any) -> Iterator[str]:
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    bound: dict[str, str] = {}
    last = schema.inputs[-1:] if schema.inputs and schema.inputs[-1].option == Formal.Variadic else []
    formals = chain(schema.inputs, last * len(node.inputs))
    for value, formal in zip(node.inputs, formals, strict=False):
        if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType | None):
            continue
        kind = f"tensor({value.dtype.name.lower()})"
        if kind not in allowed.get(formal.type_str, {formal.type_str}):
            yield f'input {formal.name} "{value.name}" is of type {value.dtype.name}'
        elif formal.is_homogeneous and bound.setdefault(formal.type_str, kind) != kind:
            first = bound[formal.type_str].removeprefix("tensor(").rstrip(")").upper()
            yield f'inputs of types {first} and {value.dtype.name} ("{value.name}")'
