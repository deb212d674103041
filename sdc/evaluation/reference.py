"""The original model in floats: under onnxruntime, or as lifted where onnxruntime lacks an operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from sdc.errors import InvalidModelError
from sdc.ir.evaluate import Evaluator

__all__ = ["Reference", "open_reference"]

_TOKENS = ("input_ids", "tokens", "ids", "input")
_DTYPES: dict[str, Any] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
_DTYPES |= {"tensor(float16)": np.float16, "tensor(bool)": np.bool_}
_LACKS = (ort_errors.NotImplemented, ort_errors.InvalidGraph, ort_errors.Fail)


class Reference(Protocol):
    """A float language model."""

    kind: str

    def logits(self, tokens: NDArray) -> NDArray:
        """Logits [n, vocab] of tokens [n]."""
        ...


def open_reference(onnx: Path, max_seq: int) -> Reference:
    """The model of an ONNX file.

    Raises:
        InvalidModelError: The file cannot be run.
    """
    # Where processors lack VNNI, "0" adds products of 8 by 8 bits with saturation, which is another model
    # (onnxruntime_session_options_config_keys.h); with "1", onnxruntime 1.32 has no kernel for QLinearMatMul.
    for precise in ("1", "0"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is raised
        options.add_session_config_entry("session.x64quantprecision", precise)
        try:
            session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        except _LACKS:
            continue
        return _Session(onnx, session)
    return _Lifted(onnx, max_seq)


class _Session:
    kind = "onnxruntime"

    def __init__(self, path: Path, session: Any) -> None:
        self.path, self.session = path, session
        self.inputs = session.get_inputs()
        names = {i.name for i in self.inputs}
        self.token_name = next((n for n in _TOKENS if n in names), self.inputs[0].name)
        outputs = [o.name for o in session.get_outputs()]
        self.output = "logits" if "logits" in outputs else outputs[0]

    def logits(self, tokens: NDArray) -> NDArray:
        """Logits [n, vocab] of tokens [n]."""
        feed = {i.name: self.feed(i, tokens) for i in self.inputs}
        made: NDArray = self.session.run([self.output], feed)[0]
        return made.reshape(-1, made.shape[-1]).astype(np.float32, copy=False)

    def feed(self, value: Any, tokens: NDArray) -> NDArray:
        """What an input gets: the tokens, positions from 0, a mask of ones, or an empty past."""
        dtype = _DTYPES.get(value.type)
        if dtype is None:
            raise InvalidModelError(f'{self.path}: input "{value.name}" has type {value.type}, not supported')
        if value.name == self.token_name:
            return tokens[None].astype(dtype)
        if "mask" in value.name:
            return np.ones((1, len(tokens)), dtype)
        if "position" in value.name:
            return np.arange(len(tokens))[None].astype(dtype)
        if len(value.shape) == 4:  # past keys and values [batch, heads, past, head_dim]
            _, heads, _, width = value.shape
            return np.zeros((1, heads, 0, width), dtype)
        raise InvalidModelError(f'{self.path}: there is no default for the input "{value.name}"')


class _Lifted:
    kind = "sdc float module"

    def __init__(self, path: Path, max_seq: int) -> None:
        from sdc.frontends.onnx import load  # imported late: onnxruntime serves nearly every model

        self.model = load(path, max_seq=max_seq)
        self.evaluator = Evaluator(self.model)

    def logits(self, tokens: NDArray) -> NDArray:
        """Logits [n, vocab] of tokens [n]."""
        function = self.model.module[self.model.entry]
        caches = list(function.params)[2 : int(function.attrs["num_input"])]
        empty = [np.zeros((1, *[int(d) for d in v.ty.shape.values[1:]]), str(v.ty.dtype)) for v in caches]
        made = self.evaluator.run(self.model.entry, tokens[None], np.asarray(0, np.int64), *empty)
        logits: NDArray = made[0][0]
        return logits
