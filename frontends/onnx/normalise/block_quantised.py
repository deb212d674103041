"""Weights of few bits: MatMulNBits and GatherBlockQuantized of ``com.microsoft``.

Both become the standard ``DequantizeLinear`` in blocks, in front of MatMul or Gather. The bytes stay where
they are, memory-mapped; a weight is unpacked when it is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from sdc.frontends.onnx.normalise.rewriting import Outputs, allow, constant, given, refuse, replace_nodes
from sdc.frontends.onnx.stored import read_tensor

__all__ = ["unpack_block_quantised"]


def unpack_block_quantised(model: ir.Model) -> int:
    """Replaces every match; returns how many."""
    rules = _Rules(model.graph)
    return replace_nodes(model, {"MatMulNBits": rules.matmul, "GatherBlockQuantized": rules.gather})


@dataclass
class _Rules:
    """Dense weights by the tensor they are stored in, so that a table shared with the head is one weight."""

    graph: ir.Graph
    dense: dict[tuple[int, int, int], ir.Value] = field(default_factory=dict)

    def matmul(self, tape: Tape, node: ir.Node) -> Outputs:
        """x W' + bias with W [N, K] stored as [N, blocks, block * bits / 8] bytes."""
        known = ("K", "N", "bits", "block_size", "accuracy_level", "weight_prepacked")
        allow(node, known, inputs=(0, 1, 2, 3, 5))
        if node.attributes.get_int("weight_prepacked", 0):
            raise refuse(node, "weights packed for one kind of processor")
        columns = node.attributes.get_int("K", 0)
        packed = _packed(node, (1, 2, 3), node.attributes.get_int("N", 0), columns)
        dense = self._dequantised(tape, packed)
        weight = tape.op("Transpose", [dense], {"perm": [1, 0]})
        if packed.blocks * packed.block != columns:  # the last block is padded
            weight = tape.op("Slice", [weight, *(constant(tape, [n]) for n in (0, columns, 0))])
        out = tape.op("MatMul", [node.inputs[0], weight], name=str(dense.name))
        bias = given(node, 5)
        return [out if bias is None else tape.op("Add", [out, bias])]

    def gather(self, tape: Tape, node: ir.Node) -> Outputs:
        """Rows of a table [rows, columns] in blocks along its rows."""
        allow(node, ("bits", "block_size", "gather_axis", "quantize_axis"), inputs=range(4))
        get, data = node.attributes.get_int, _tensor(node, 0)
        rows, width = int(data.shape[0]), prod(int(d) for d in data.shape[1:])
        plain = data.dtype == ir.DataType.UINT8 and node.inputs[0].shape in (None, ir.Shape([rows, width]))
        if not plain or get("gather_axis", 0) or get("quantize_axis", 1) not in (1, -1):
            raise refuse(node, "a table other than rows of packed bytes")
        dense = self._dequantised(tape, _packed(node, (0, 2, 3), rows, width * 8 // get("bits", 4)))
        return [tape.op("Gather", [dense, node.inputs[1]], {"axis": 0})]

    def _dequantised(self, tape: Tape, packed: _Packed) -> ir.Value:
        """[rows, blocks * block] in float32."""
        key = (id(packed.data), id(packed.scale), packed.block)
        if key not in self.dense:
            name = re.sub(r"_(Q\d|quant)$", "", str(packed.data.name))
            stored = {"integers": packed.integers(), "scales": packed.scales()}
            if packed.zero is not None:
                stored["zero_points"] = packed.zero_points(packed.zero)
            inputs = [self._initializer(f"{name}.{what}", tensor) for what, tensor in stored.items()]
            value = tape.op("DequantizeLinear", inputs, {"axis": 1, "block_size": packed.block})
            value.name, value.dtype, value.shape = name, ir.DataType.FLOAT, inputs[0].shape
            self.dense[key] = value
        return self.dense[key]

    def _initializer(self, name: str, tensor: ir.LazyTensor) -> ir.Value:
        tensor.name = name
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value


@dataclass(frozen=True)
class _Packed:
    """A weight [rows, columns] of ``bits`` bits with a scale, perhaps a zero point, per ``block`` columns."""

    data: ir.TensorProtocol
    scale: ir.TensorProtocol
    zero: ir.TensorProtocol | None
    bits: int
    block: int
    rows: int
    columns: int

    @property
    def blocks(self) -> int:
        return -(-self.columns // self.block)

    @property
    def _width(self) -> int:
        """Bits of the ONNX type that holds the integers."""
        return max(self.bits, 4)

    def integers(self) -> ir.LazyTensor:
        """[rows, blocks * block]; signed where half of the range is the zero point, as it is by default."""
        width, half = self.blocks * self.block, 1 << (self.bits - 1)

        def read() -> ir.Tensor:
            unsigned = _unpacked(self.data, self.bits, self.rows, width)
            return ir.Tensor(unsigned if self.zero is not None else (unsigned - half).astype(kind.numpy()))

        kind = ir.DataType[f"{'INT' if self.zero is None else 'UINT'}{self._width}"]
        return ir.LazyTensor(read, kind, ir.Shape((self.rows, width)))

    def zero_points(self, zero: ir.TensorProtocol) -> ir.LazyTensor:
        """[rows, blocks]; each row is packed like integers, up to a whole byte."""
        kind = ir.DataType[f"UINT{self._width}"]
        shape = ir.Shape((self.rows, self.blocks))
        return ir.LazyTensor(
            lambda: ir.Tensor(_unpacked(zero, self.bits, self.rows, self.blocks)), kind, shape
        )

    def scales(self) -> ir.LazyTensor:
        """[rows, blocks] float32."""
        shape = (self.rows, self.blocks)
        return ir.LazyTensor(
            lambda: ir.Tensor(read_tensor(self.scale).astype(np.float32).reshape(shape)),
            ir.DataType.FLOAT,
            ir.Shape(shape),
        )


def _packed(node: ir.Node, inputs: tuple[int, int, int], rows: int, columns: int) -> _Packed:
    """What a node stores at the indices of its integers, scales and zero points.

    Raises:
        UnsupportedOpError: These are no constants, zero points are no integers, or sizes do not meet.
    """
    data, scale = _tensor(node, inputs[0]), _tensor(node, inputs[1])
    zero = _tensor(node, inputs[2]) if given(node, inputs[2]) is not None else None
    bits, block = (node.attributes.get_int(n, d) for n, d in (("bits", 4), ("block_size", 128)))
    if zero is not None and zero.dtype != ir.DataType.UINT8:
        raise refuse(node, f"zero points of type {zero.dtype}")
    if bits not in (2, 4, 8) or block <= 0 or rows <= 0 or columns <= 0:
        raise refuse(node, f"{bits} bits in blocks of {block} for a weight [{rows}, {columns}]")
    packed = _Packed(data, scale, zero, bits, block, rows, columns)
    sizes = [(data, packed.blocks * block * bits // 8), (scale, packed.blocks)]
    if zero is not None:
        sizes.append((zero, -(-packed.blocks * bits // 8)))
    if any(int(tensor.size) != rows * each for tensor, each in sizes):
        found = ", ".join(str(list(tensor.shape)) for tensor, _ in sizes)
        raise refuse(node, f"tensors {found} for {bits} bits in blocks of {block} of [{rows}, {columns}]")
    return packed


def _tensor(node: ir.Node, index: int) -> ir.TensorProtocol:
    """A stored input; the builder writes Reshape between the head's weight and the table shared with it."""
    value = node.inputs[index]
    stored = ir.convenience.get_const_tensor(value) if value is not None else None
    if stored is None and value is not None and value.producer() is not None:
        made = value.producer()
        if made.op_type == "Reshape" and not made.domain and made.inputs[0] is not None:
            stored = made.inputs[0].const_value
    if stored is None:
        raise refuse(node, f"its input {index} is no stored weight")
    return stored


def _unpacked(tensor: ir.TensorProtocol, bits: int, rows: int, width: int) -> NDArray:
    """The unsigned integers [rows, width] uint8 in a tensor's bytes, the lowest bits of a byte first."""
    packed = np.ascontiguousarray(read_tensor(tensor)).view(np.uint8).reshape(rows, -1)
    if bits == 8:
        return packed[:, :width]
    each = 8 // bits
    unpacked = np.empty((*packed.shape, each), np.uint8)
    for place in range(each):  # strided stores; a shift along a short last axis takes five times as long
        np.right_shift(packed, place * bits, out=unpacked[..., place])
    unpacked &= (1 << bits) - 1
    return unpacked.reshape(rows, -1)[:, :width]
