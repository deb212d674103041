"""The inputs that a model is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.config import CompileConfig
from sdc.data import demo_text
from sdc.errors import ConfigError
from sdc.ir.model import Model
from sdc.ir.ops import dtype_of, shape_of
from sdc.runtime.text import TextCodec

__all__ = ["calibration_for"]

Windows = tuple[NDArray | tuple[NDArray, ...], ...]


def calibration_for(model: Model, config: CompileConfig, tokenizer_folder: Path) -> tuple[Windows, str]:
    """Calibration windows of a model, and a remark on where they are from.

    A decoder gets tokens of the given text, of the demo text, or (without a tokenizer) random ones; a
    stateless graph gets random inputs.

    Raises:
        ConfigError: A text was given, but cannot be read, is too short, or there is no tokenizer.
    """
    random = np.random.default_rng([config.seed, 0xCA11B])
    if model.info.kind != "decoder":
        inputs = tuple(_random_inputs(model, random) for _ in range(config.calibration_windows))
        return inputs, "calibrated on random inputs, as a graph without tokens has no text"
    size = min(config.calibration_window, model.info.max_seq)
    codec = TextCodec.find(tokenizer_folder)
    if codec is None:
        if config.calibration is not None:
            raise ConfigError(
                f"{config.calibration} cannot be used: the model has no tokenizer; put tokenizer.json beside "
                "the model"
            )
        drawn = random.integers(0, model.info.vocab, (config.calibration_windows, size))
        return tuple(drawn), "calibrated on random tokens, as the model has no tokenizer"
    tokens = codec.encode(_text(config.calibration))
    if len(tokens) < size:
        raise ConfigError(
            f"{config.calibration} has {len(tokens)} tokens, at least {size} are needed to calibrate"
        )
    count = min(config.calibration_windows, len(tokens) // size)
    # Spread over the text, so that it is not all one topic.
    starts = np.linspace(0, len(tokens) - size, count).astype(int)
    windows = tuple(np.asarray(tokens[s : s + size], np.int64) for s in starts)
    origin = "sdc's demo text" if config.calibration is None else config.calibration.name
    return windows, f"calibrated on {count} windows of {size} tokens of {origin}"


def _text(path: Path | None) -> str:
    if path is None:
        return demo_text()[0]
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the calibration text {path} cannot be read: {error}") from error


def _random_inputs(model: Model, random: np.random.Generator) -> tuple[NDArray, ...]:
    function = model.module[model.entry]
    sizes: dict[str, int] = {}

    def size(dim: Any) -> int:
        return dim if isinstance(dim, int) else sizes.setdefault(str(dim), 4)

    made = []
    for var in list(function.params)[: int(function.attrs["num_input"])]:
        shape, dtype = [size(d) for d in shape_of(var, "calibration")], dtype_of(var)
        integer = np.issubdtype(np.dtype(dtype), np.integer) or dtype == "bool"
        values = random.integers(0, 2, shape) if integer else random.standard_normal(shape)
        made.append(values.astype(dtype))
    return tuple(made)
