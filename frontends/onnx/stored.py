"""Reading a stored tensor without keeping its file in memory."""

from __future__ import annotations

import mmap

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["read_tensor"]


def read_tensor(tensor: ir.TensorProtocol) -> NDArray:
    """A tensor's values; of external data a copy, and the pages of the mapped file are given back.

    Every weight is read several times in a compile, each time by a mapping of its own: pages that stayed
    mapped would add up to the whole file, for a compile that needs one layer at a time.
    """
    array: NDArray = tensor.numpy()
    if not isinstance(tensor, ir.ExternalTensor) or tensor.raw is None:
        return array
    array = array.copy()
    if hasattr(mmap, "MADV_DONTNEED"):
        tensor.raw.madvise(mmap.MADV_DONTNEED)  # others that look at the mapping read the file again
    return array
