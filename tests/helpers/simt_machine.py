"""A lowered CUDA program as object files for this processor: each kernel's body calls the emulator.

So everything around the kernels is what runs on a device: TVM's virtual machine, the loader, the runner, and,
of a sharded program, Disco's workers and their collectives.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from helpers.simt import launch
from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.fused.emit import declare, prim_func
from sdc.targets.fused.library import save_objects
from sdc.targets.fused.machine import load_objects
from sdc.targets.fused.program import compile_module

__all__ = ["emulated_module"]

_NUMBERS = itertools.count()

# Its functions only call: LLVM would optimise them for longer than they ever run.
_HOST = tvm.target.Target({"kind": "llvm", "opt-level": 0})


def emulated_module(module: tvm.IRModule, folder: Path, planned: tvm.transform.Pass | None = None) -> Any:
    """The loaded program of a lowered module; ``planned`` as :func:`compile_module` has it."""
    made = module.clone()
    for gvar, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            made.update_func(gvar, _calls_the_emulator(str(gvar.name_hint), function))
    executable = compile_module(made, _HOST, "the emulator", planned=planned)
    return load_objects(save_objects(executable, folder, "host"))


def _calls_the_emulator(name: str, kernel: tirx.PrimFunc) -> tirx.PrimFunc:
    """A function of the kernel's arguments that runs it on their memory."""
    host = f"sdc_test.emulate.{next(_NUMBERS)}.{name}"

    def emulate(*tensors: Any) -> None:
        arrays = [np.array(t.numpy(), order="C") for t in tensors]
        launch(kernel, arrays)
        for tensor, array in zip(tensors, arrays, strict=True):
            tensor.copyfrom(array)

    def body() -> None:
        buffers = [declare(str(p.name), p.ty.shape, str(p.ty.dtype)) for p in kernel.params]
        T.evaluate(tirx.call_packed(host, *buffers))

    tvm_ffi.register_global_func(host, emulate)
    return prim_func(name, body)
