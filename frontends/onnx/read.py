"""Reads an ONNX file: weights stay memory-mapped, damage is an error that names the place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import google.protobuf.message
import onnx_ir as ir
from onnx_ir.serde import SerdeError

from sdc.errors import InvalidModelError
from sdc.frontends.onnx.inline import InlineTensor, load_mapped
from sdc.frontends.onnx.schema import (
    OLDEST_OPSET,
    UNKNOWN_ATTRIBUTES,
    changed_operations,
    misused_operations,
    unknown_attributes,
)

__all__ = ["read_model"]

LARGEST = 2**36  # elements; the largest embeddings of published models have under 2^32


def read_model(path: str | Path) -> ir.Model:
    """The model in a file, its weights memory-mapped, in the file itself or beside it.

    Raises:
        InvalidModelError: The file is missing or damaged; external data is missing, too short, or lies
            outside the model's folder; a node reads a value that nothing makes, or breaks the specification
            of its operation; the graph has a cycle; its opset is too old.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidModelError(f"{path}: there is no such file")
    try:
        with _quiet():
            model = load_mapped(path)
    except (google.protobuf.message.DecodeError, ValueError, KeyError, TypeError, SerdeError) as error:
        raise InvalidModelError(
            f"{path}: not a complete ONNX file ({_cause(error)}); export it again"
        ) from error
    if not len(model.graph) or not model.graph.outputs:
        raise InvalidModelError(f"{path}: the file holds no graph with nodes and outputs; export it again")
    _check_text(path, model)
    _check_opset(path, model)
    for name, tensor in _stored(model):
        _check_size(path, name, tensor)
        _check_external(path, name, tensor)
    _follow_links(path, model)
    for value in model.graph.inputs:
        _check_dimensions(path, f'input "{value.name}"', value.shape)
    _check_wiring(path, model)
    misused = misused_operations(model)
    if misused:
        raise InvalidModelError(f"{path}: {'; '.join(misused)}; export it again")
    model.meta[UNKNOWN_ATTRIBUTES] = unknown_attributes(model)
    return model


def _cause(error: BaseException) -> str:
    """The first line of what is wrong, without the pieces of the file that onnx-ir quotes around it."""
    while isinstance(error, SerdeError) and error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]


def _check_text(path: Path, model: ir.Model) -> None:
    """Operations have names that are text; protobuf leaves bytes where they are none."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not all(isinstance(text, str) for text in (node.op_type, node.domain, *node.attributes)):
            raise InvalidModelError(
                f'{path}: node "{node.name}" has an operation or attribute whose name is no text '
                f"({node.op_type!r}); export it again"
            )


def _check_opset(path: Path, model: ir.Model) -> None:
    opset = int(model.opset_imports.get("", OLDEST_OPSET))
    changed = changed_operations(model) if opset < OLDEST_OPSET else ()
    if changed:
        raise InvalidModelError(
            f"{path}: the file is in opset {opset}, where {', '.join(changed)} meant something else; "
            f"export it with opset {OLDEST_OPSET} or later"
        )


def _stored(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """All tensors in the file: initializers of the graph and its subgraphs, and those in attributes."""
    graphs = [model.graph, *(f.graph for f in model.functions.values())]
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            yield str(value.name), value.const_value
    for node in (n for graph in graphs for n in ir.traversal.RecursiveGraphIterator(graph)):
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield str(node.outputs[0].name), attribute.as_tensor()
            elif attribute.type == ir.AttributeType.GRAPH:
                inner = attribute.as_graph().initializers.values()
                yield from ((str(v.name), v.const_value) for v in inner if v.const_value is not None)


def _check_size(path: Path, name: str, tensor: ir.TensorProtocol) -> None:
    """The shape is sane, and a tensor inside the file has as many bytes as its shape says."""
    _check_dimensions(path, f'weight "{name}"', tensor.shape)
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise InvalidModelError(f'{path}: weight "{name}" has no type; export it again')
    if tensor.dtype == ir.DataType.STRING:
        raise InvalidModelError(f'{path}: weight "{name}" holds strings, which no operation here takes')
    stored = _stored_bytes(tensor)
    if stored not in (0, tensor.nbytes):
        raise InvalidModelError(
            f'{path}: weight "{name}" has {stored} bytes of data, but its shape '
            f"{tensor.shape} asks for {tensor.nbytes}; export it again"
        )
    if isinstance(tensor, ir.TensorProtoTensor) and not tensor.raw.raw_data:
        try:
            tensor.numpy()
        except (ValueError, TypeError, AssertionError) as error:
            raise InvalidModelError(
                f'{path}: weight "{name}" has other data than its type {tensor.dtype} and its shape '
                f"{tensor.shape} ask for ({error}); export it again"
            ) from error


def _stored_bytes(tensor: ir.TensorProtocol) -> int:
    """Bytes of raw data in the model's file; 0 where the numbers are stored in another way."""
    if isinstance(tensor, InlineTensor):
        return int(tensor.length or 0)
    return len(tensor.raw.raw_data) if isinstance(tensor, ir.TensorProtoTensor) else 0


def _check_dimensions(path: Path, what: str, shape: ir.Shape | None) -> None:
    sizes = [int(d) for d in shape or () if isinstance(d, int)]
    if any(not 0 <= d <= LARGEST for d in sizes) or prod(sizes) > LARGEST:
        raise InvalidModelError(f"{path}: {what} has the shape {shape}, which no real tensor has")


def _check_external(path: Path, name: str, tensor: ir.TensorProtocol) -> None:
    if not isinstance(tensor, ir.ExternalTensor) or isinstance(tensor, InlineTensor):
        return
    folder, location = path.parent.resolve(), Path(str(tensor.location))
    target = (folder / location).resolve()
    inside = folder in target.parents or (target.parent == _blobs(folder) and ".." not in location.parts)
    if location.is_absolute() or not inside:
        raise InvalidModelError(
            f'{path}: weight "{name}" points outside the model\'s folder ({location}); refused'
        )
    if not target.is_file():
        raise InvalidModelError(
            f'{path}: weight "{name}" is in {location}, which is missing; copy it beside the model'
        )
    end = int(tensor.offset or 0) + int(tensor.length or tensor.nbytes)
    if target.stat().st_size < end or (tensor.length or tensor.nbytes) < tensor.nbytes:
        raise InvalidModelError(
            f'{path}: {location} is too short for weight "{name}" '
            f"({target.stat().st_size} bytes, {end} needed); copy it again"
        )


def _follow_links(path: Path, model: ir.Model) -> None:
    """Points weights behind links, which have been checked, to the files themselves; onnx-ir follows none."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and not isinstance(tensor, InlineTensor):
            target = (path.parent / str(tensor.location)).resolve()
            if path.parent.resolve() not in target.parents:
                value.const_value = ir.ExternalTensor(
                    target.name,
                    tensor.offset,
                    tensor.length,
                    tensor.dtype,
                    shape=tensor.shape,
                    name=str(tensor.name),
                    base_dir=target.parent,
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """onnx-ir warns of values that nothing makes; here they are errors with the file's name."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _blobs(folder: Path) -> Path | None:
    """Where a Hugging Face cache keeps the files that those of a snapshot link to; None outside a cache.

    ``models--ORG--NAME/snapshots/REVISION/...`` links into ``models--ORG--NAME/blobs``, see
    https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    return None if snapshots is None else snapshots.parent / "blobs"


def _check_wiring(path: Path, model: ir.Model) -> None:
    known = {id(v) for v in (*model.graph.inputs, *model.graph.initializers.values())}
    known |= {id(o) for n in model.graph for o in n.outputs}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and id(value) not in known:
                raise InvalidModelError(
                    f'{path}: node "{node.name}" ({node.op_type}) reads "{value.name}", which nothing makes'
                )
    for value in model.graph.outputs:
        if id(value) not in known:
            raise InvalidModelError(f'{path}: nothing makes the output "{value.name}"')
    try:
        model.graph.sort()
    except ValueError as error:
        raise InvalidModelError(f"{path}: the graph has a cycle ({error})") from error
