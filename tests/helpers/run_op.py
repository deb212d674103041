"""Runs one operation of the dialect through TVM, by its naive legalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx


def lowered(build: Callable[..., relax.Call], *arrays: NDArray, symbolic: bool = False) -> Any:
    """Builds a function around ``build(*vars)``, lowers it for LLVM, and runs it on the arrays.

    Args:
        build: Makes the call from one Relax variable an array.
        arrays: Inputs; their shapes and dtypes are the variables' types.
        symbolic: Make the first axis of the first array a symbolic length.
    """
    types = [relax.TensorType(list(a.shape), str(a.dtype)) for a in arrays]
    if symbolic:
        types[0] = relax.TensorType([tirx.Var("n", "int64"), *arrays[0].shape[1:]], str(arrays[0].dtype))
    params = [relax.Var(f"x{i}", t) for i, t in enumerate(types)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(build(*params))
        builder.emit_func_output(out)
    module = relax.transform.LegalizeOps()(builder.get())
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(np.array(a, order="C")) for a in arrays])
    return result.numpy() if hasattr(result, "numpy") else tuple(r.numpy() for r in result)


def inferred(build: Callable[..., relax.Call], *types: relax.TensorType) -> tvm.ir.Type:
    """The type that shape inference gives to ``build(*vars)``."""
    params = [relax.Var(f"x{i}", t) for i, t in enumerate(types)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        call = builder.emit(build(*params))
        builder.emit_func_output(call)
    return call.ty
