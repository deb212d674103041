"""The settings of a compile: validated once, written to the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdc.errors import ConfigError

__all__ = ["CompileConfig", "make_config"]


class CompileConfig(BaseModel):
    """Everything that decides what a compiled program computes.

    Attributes:
        target: Back end.
        weights: Integer type of the weights.
        levels: Largest spike count of a linear's input (7 stands for 4-bit activations, 15 for 5, 127 for 8).
        group: Channels that share a threshold; 0 means all of a token's.
        coding: How a count becomes a train.
        calibration: Text file to calibrate on; None takes the text that ships with sdc.
        max_seq: Tokens that the cache holds; None takes the model's context, at most 2048.
        seed: Seed of everything random.
        smoothing: Exponent of the smoothing scales (SmoothQuant, arXiv 2211.10438); 0 turns it off.
        block: Largest Hadamard block in channels; 0 turns it off.
        q_levels: Spike levels of attention queries.
        kv_levels: Spike levels of cached keys and values.
        prob_levels: Spike levels of attention probabilities, unsigned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Literal["cpu", "cuda", "neuro"] = "cpu"
    weights: Literal["int8", "int4"] = "int8"
    levels: int = Field(15, ge=1, le=127)
    group: int = Field(64, ge=0)
    coding: Literal["ternary", "bitwise", "binary"] = "ternary"
    calibration: Path | None = None
    max_seq: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    smoothing: float = Field(0.5, ge=0, le=1)
    block: int = Field(64, ge=0, le=1024)
    q_levels: int = Field(15, ge=1, le=127)
    kv_levels: int = Field(127, ge=1, le=127)
    prob_levels: int = Field(255, ge=1, le=255)


def make_config(**settings: object) -> CompileConfig:
    """A configuration from settings; those that are None keep their defaults.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """
    given = {k: v for k, v in settings.items() if v is not None}
    try:
        return CompileConfig.model_validate(given)
    except ValidationError as error:
        problems = [f"--{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(problems)) from error
