"""Spike encoding of a row of activations with what comes before it: norm, gate, scale, Hadamard, encode."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sdc.targets.cpu.emit import declare, fit, lane_type, load, local, loop, prim_func, store, symbol
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.rows import activation, encode_row, hadamard_row, layer_norm, rms_norm
from sdc.targets.fused.specs import EncodeSpec, Stream

__all__ = ["EncodeSpec", "Stream", "spike_encode"]


def spike_encode(spec: EncodeSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(x[, x2][, gain][, shift][, scale][, signs], limits, counts, theta)``.

    x [n, stride] float32; gain, shift, scale, signs [K] float32; limits of the encoder; counts [n, K],
    theta [n, K / group] float32. Parallel over tokens where their number is not 1.
    """
    return prim_func(spec.key(), lambda: _emit(spec, isa))


def _emit(spec: EncodeSpec, isa: Isa) -> None:
    n: Any = spec.tokens or symbol("n")
    tensors: dict[int, Any] = {}
    for stream in spec.streams:
        if stream.tensor not in tensors:
            tensors[stream.tensor] = declare(f"x{stream.tensor}", (n, stream.stride), "float32")

    def vector(name: str, wanted: bool) -> Any:
        return declare(name, (spec.width,), "float32") if wanted else None

    gain, shift = vector("gain", bool(spec.norm)), vector("shift", spec.norm == "layer")
    scale, signs = vector("scale", spec.scaled), vector("signs", bool(spec.block))
    numbers = declare("limits", (spec.encoder.numbers,), "float32")
    counts = declare("counts", (n, spec.width), spec.encoder.dtype)
    theta = declare("theta", (n, spec.width // spec.encoder.group), "float32")
    lanes = fit(spec.width, isa.lanes)
    with loop(n, parallel=spec.tokens != 1) as m:
        row = local(spec.width, "float32")
        _read(row, spec, tensors, m, lanes)
        if spec.norm == "rms":
            rms_norm(row, spec.width, gain, spec.epsilon, lanes)
        elif spec.norm == "layer":
            layer_norm(row, spec.width, gain, shift, spec.epsilon, lanes)
        if spec.scaled:
            with loop(spec.width // lanes) as i:
                at = (i * lanes,)
                store(row, at, load(row, at, lanes) * load(scale, at, lanes), lanes)
        if spec.block:
            hadamard_row(row, spec.width, signs, spec.block, lanes)
        encode_row(
            row,
            spec.width,
            spec.encoder,
            numbers,
            isa.lanes,
            lambda at, value, width: store(
                counts, (m, at), value.astype(lane_type(spec.encoder.dtype, width)), width
            ),
            lambda g, value: store(theta, (m, g), value),
        )


def _read(row: Any, spec: EncodeSpec, tensors: dict[int, Any], m: Any, lanes: int) -> None:
    with loop(spec.width // lanes) as i:
        values = [load(tensors[s.tensor], (m, s.offset + i * lanes), lanes) for s in spec.streams]
        value = values[0]
        if spec.gate:
            value = activation(spec.gate, value, lanes) * values[1]
        store(row, (i * lanes,), value, lanes)
