"""The settings of a compile: validated, immutable, written to the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sdc.errors import ConfigError
from sdc.presets import PRESETS

__all__ = ["CompileConfig"]


class CompileConfig(BaseModel):
    """Everything that decides what a compile yields.

    Make one with :meth:`of`, whose errors are for people.

    Attributes:
        target: Where the program runs.
        preset: Named settings (:mod:`sdc.presets`) that the others start from.
        weights: Integer type of the weights.
        quantiser: How weights become integers: ``gptq`` (errors made good, layer by layer on spiking inputs)
            or ``rtn`` (each to the nearest). Left out: rtn for int8, gptq below.
        weight_group: Input channels that share a scale of a weight below 8 bits.
        compensation: How far GPTQ first moves weights towards those that make most of spiking inputs.
        levels: Largest spike count D of a linear's inputs.
        group: Channels that share a threshold; 0 means all of a token's.
        coding: How a count becomes a train of spikes.
        calibration: A text to calibrate on; None means sdc's demo text.
        calibration_windows: Pieces of that text to run. Left out: 8, or 40 for GPTQ.
        calibration_window: Tokens a piece. Left out: 128, or 256 for GPTQ.
        max_seq: Tokens that the cache holds; None means 2048, or the model's context where shorter.
        seed: Seed of everything random.
        smoothing: Exponent of the smoothing scales (SmoothQuant, arXiv 2211.10438); 0 turns it off,
            ``search`` finds one for each operation's input, by output error.
        rotate_residual: Rotate the whole residual stream by one Hadamard matrix in the weights (QuaRot,
            arXiv 2404.00456); inputs behind its norms then need no transform when they run.
        block: Largest Hadamard block, in channels, a power of two; 0 turns projection off.
        sign_tries: Random signs to try for the transform of each width; the best by output error is taken.
        spikes: Wanted mean of |count| of a linear's inputs, which sets the least threshold of each; 0:
            thresholds follow max|x| alone.
        static: Thresholds are those least ones alone, known before a run; needs ``spikes``.
        dead_zone: tau: inputs below tau thresholds are silent (0.5 and less change nothing).
        budget: ``ppl=1.05x`` (over the float model), or ``spikes=0.5x`` or ``synops=0.5x`` (over what these
            settings give): thresholds are chosen an operation, by measured sensitivity.
        q_levels: Spike levels of attention queries.
        kv_levels: Spike levels of cached keys and values.
        prob_levels: Spike levels of attention probabilities (unsigned).
        machine: For target neuro: a shipped machine's name, or the path of a description; None means
            ``loihi2-like``.
        lowering: For target cpu: how linears decode: ``event`` (walks the counts that are not 0) or
            ``collapsed``; None means ``auto``, event where calibration's zeros make it faster.
        mcpu: For target cpu: the one processor to hold code for, ``native`` (this one) or a level such as
            ``x86-64-v3``; None means every level, chosen from when the program is opened.
        arch: For target cuda: architectures to hold machine code for, commas between; None means
            ``sm_80,sm_89,sm_90``. Newer ones run from PTX.
        emit: For target cuda: forms of the kernels to write beside the program, commas between: cuda, ptx,
            cubin, sass.
        shards: For target cuda: GPUs that share the program, each with some of the heads and channels; None
            means one.
        cuda_graphs: For target cuda: a greedy step is one CUDA graph, recorded at the first; None means no.
        verify: Check what every pass promises; not part of the manifest.
        dump_ir: A directory for the module after every pass; not part of the manifest.
        emit_isa: For target neuro: a directory for every core's program as text; not part of the manifest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Literal["cpu", "cuda", "neuro"] = "cpu"
    preset: str | None = None
    weights: Literal["int8", "int4", "int3", "int2"] = "int8"
    quantiser: Literal["rtn", "gptq"] = "rtn"
    weight_group: Annotated[int, Field(ge=1)] = 32
    compensation: Annotated[float, Field(ge=0, le=1)] = 0.0
    levels: Annotated[int, Field(ge=1, le=127)] = 15
    group: Annotated[int, Field(ge=0)] = 64
    coding: Literal["ternary", "bitwise", "binary"] = "ternary"
    calibration: Path | None = None
    calibration_windows: Annotated[int, Field(ge=1)] = 8
    calibration_window: Annotated[int, Field(ge=2)] = 128
    max_seq: Annotated[int, Field(ge=2)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    smoothing: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = 0.6
    rotate_residual: bool = False
    block: Annotated[int, Field(ge=0)] = 64
    sign_tries: Annotated[int, Field(ge=1)] = 1
    spikes: Annotated[float, Field(ge=0)] = 0.0
    static: bool = False
    dead_zone: Annotated[float, Field(ge=0, le=2)] = 0.0
    budget: Annotated[str, Field(pattern=r"^(ppl|spikes|synops)=[0-9.]+x$")] | None = None
    q_levels: Annotated[int, Field(ge=1, le=127)] = 31
    kv_levels: Annotated[int, Field(ge=1, le=127)] = 127
    prob_levels: Annotated[int, Field(ge=1, le=255)] = 255
    machine: str | None = None
    lowering: Literal["auto", "event", "collapsed"] | None = None
    mcpu: str | None = None
    arch: Annotated[str | None, Field(pattern=r"^sm_[0-9]{2,3}(,sm_[0-9]{2,3})*$")] = None
    emit: Annotated[str | None, Field(pattern=r"^(cuda|ptx|cubin|sass)(,(cuda|ptx|cubin|sass))*$")] = None
    shards: Annotated[int | None, Field(ge=1)] = None
    cuda_graphs: bool | None = None
    verify: bool = False
    dump_ir: Path | None = None
    emit_isa: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Values for the settings whose default depends on others."""
        filled = {**_preset(settings.get("preset")), **{k: v for k, v in settings.items() if v is not None}}
        if filled.get("quantiser") is None:
            filled["quantiser"] = "rtn" if filled.get("weights", "int8") == "int8" else "gptq"
        long = filled["quantiser"] == "gptq"
        for name, short, wide in (("calibration_windows", 8, 40), ("calibration_window", 128, 256)):
            if filled.get(name) is None:
                filled[name] = wide if long else short
        return filled

    @model_validator(mode="after")
    def _block_is_a_power_of_two(self) -> CompileConfig:
        if self.block & (self.block - 1):
            raise ValueError(f"block must be a power of two or 0, not {self.block}")
        return self

    @model_validator(mode="after")
    def _machine_is_for_neuro(self) -> CompileConfig:
        for name in ("machine", "emit_isa"):
            if self.target != "neuro" and getattr(self, name) is not None:
                raise ValueError(f"{name} is a setting of target neuro, the target is {self.target}")
        return self

    @model_validator(mode="after")
    def _processor_is_for_the_cpu(self) -> CompileConfig:
        for name in ("lowering", "mcpu"):
            if self.target != "cpu" and getattr(self, name) is not None:
                raise ValueError(f"{name} is a setting of target cpu, the target is {self.target}")
        return self

    @model_validator(mode="after")
    def _static_thresholds_have_values(self) -> CompileConfig:
        if self.static and not self.spikes:
            raise ValueError("static thresholds need spikes, the mean count that sets them")
        return self

    @model_validator(mode="after")
    def _arch_is_for_cuda(self) -> CompileConfig:
        for name in ("arch", "emit", "shards", "cuda_graphs"):
            if self.target != "cuda" and getattr(self, name) is not None:
                raise ValueError(f"{name} is a setting of target cuda, the target is {self.target}")
        if self.cuda_graphs and (self.shards or 1) > 1:
            raise ValueError(
                "cuda_graphs records one device's work, and shards make several wait for each other"
            )
        return self

    @staticmethod
    def of(**settings: Any) -> CompileConfig:
        """A configuration from settings; those left out have their defaults.

        Raises:
            ConfigError: A setting is unknown or out of range; all such are named.
        """
        try:
            return CompileConfig(**settings)
        except ValidationError as error:
            raise ConfigError("; ".join(_complaint(e) for e in error.errors())) from error

    def to_manifest(self) -> dict[str, Any]:
        """JSON values, without what does not change the result."""
        return self.model_dump(mode="json", exclude={"dump_ir", "emit_isa", "verify"})


def _preset(name: str | None) -> Mapping[str, Any]:
    if name is not None and name not in PRESETS:
        raise ValueError(f'there is no preset "{name}"; presets are: {", ".join(PRESETS)}')
    return {} if name is None else PRESETS[name].settings


def _complaint(error: Any) -> str:
    """One sentence on one failed setting."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f'there is no setting "{name}"; settings are: {", ".join(CompileConfig.model_fields)}'
    return f"{name} = {error['input']!r}: {message[0].lower()}{message[1:]}"
