"""What a pass is, and what it is given besides the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.model import Coding, Model

__all__ = ["Pass", "PassContext", "PassOptions", "Progress", "Quantiser", "Weights", "check_model", "silent"]

Weights = Literal["int8", "int4", "int3", "int2"]
Quantiser = Literal["rtn", "gptq"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


def silent(_task: str, _done: int, _total: int) -> None:
    """A progress report that nobody reads."""


@dataclass(frozen=True)
class PassOptions:
    """The settings that passes read.

    Attributes:
        smoothing: Exponent a of s_j = max|x_j|^a / max|w_j|^(1 - a), within [0, 1]; 0 turns smoothing off,
            ``search`` finds one for each operation's input, by output error.
        rotate_residual: Rotate the whole residual stream, offline; inputs behind norms then need no blocks.
        block: Largest Hadamard block, in channels; 0 turns projection off.
        sign_tries: Random signs to try for the blocks of each width; the best by output error is taken.
        levels: Spike levels of linear inputs.
        group: Channels that share a threshold; 0 means all of a token's.
        coding: How a count becomes a train.
        weights: Integer type of the weights.
        quantiser: How weights become integers: ``rtn`` (each by itself, to the nearest) or ``gptq`` (layer by
            layer, on spiking inputs; needs calibration inputs).
        weight_group: Input channels that share a scale of a weight below 8 bits.
        compensation: How far GPTQ first moves weights towards those that make most of spiking inputs, 0 to 1.
        spikes: Wanted mean of |count| of a linear's inputs: sets the floor of its thresholds, from
            calibration. 0: thresholds follow max|x| alone.
        static: Thresholds are the floors alone: nothing to reduce at run time.
        dead_zone: tau of a linear's inputs; |x| < tau * theta gives 0.
        q_levels: Spike levels of attention queries.
        kv_levels: Spike levels of cached keys and values.
        prob_levels: Spike levels of attention probabilities (unsigned).
        budget: ``ppl=1.05x``, ``spikes=0.5x`` or ``synops=0.5x``: thresholds are chosen an operation, by
            measured sensitivity.
        seed: Seed of everything random.
    """

    smoothing: float | Literal["search"] = 0.6
    rotate_residual: bool = False
    block: int = 64
    sign_tries: int = 1
    levels: int = 15
    group: int = 64
    coding: Coding = "ternary"
    weights: Weights = "int8"
    quantiser: Quantiser = "rtn"
    weight_group: int = 32
    compensation: float = 0.0
    spikes: float = 0.0
    static: bool = False
    dead_zone: float = 0.0
    q_levels: int = 31
    kv_levels: int = 127
    prob_levels: int = 255
    budget: str | None = None
    seed: int = 0

    @property
    def weight_bits(self) -> int:
        """Width of an integer weight."""
        return int(self.weights.removeprefix("int"))


@dataclass(frozen=True)
class PassContext:
    """What passes share: settings, calibration inputs, a listener.

    Attributes:
        options: The settings.
        calibration: One entry a calibration window: tokens [n] int64 for a decoder, the tuple of the
            function's inputs for anything else.
        progress: Told about steps that take long.
        scratch: A directory for weights that are computed once; None keeps them in memory. It must live until
            the model has been built.
    """

    options: PassOptions = field(default_factory=PassOptions)
    calibration: tuple[NDArray | tuple[NDArray, ...], ...] = ()
    progress: Progress = silent
    scratch: Path | None = None

    def random(self, purpose: str) -> np.random.Generator:
        """A generator that depends on the seed and on ``purpose`` only, not on what ran before."""
        return np.random.default_rng([self.options.seed, *purpose.encode()])


class Pass(Protocol):
    """One step from a model to a model. Stateless: settings come with the context.

    Attributes:
        name: Kebab-case, as the registry and ``sdc opt -p`` know it.
    """

    name: str

    def run(self, model: Model, ctx: PassContext) -> Model:
        """The transformed model; the given one stays as it is."""
        ...

    def check(self, model: Model, ctx: PassContext) -> None:
        """Raises :class:`PostconditionError` where what the pass promises does not hold."""
        ...


def check_model(model: Model, pass_name: str) -> None:
    """Checks what every pass must leave behind: a well-formed module whose weights are all there.

    Raises:
        PostconditionError: The module is not well formed; a weight is missing, has another shape or dtype
            than its parameter, or is read by nothing.
    """
    try:
        relax.analysis.well_formed(model.module)
    except (tvm.error.InternalError, ValueError, TypeError) as error:
        raise PostconditionError(pass_name, f"the module is not well formed: {error}") from error
    function = model.module[model.entry]
    declared = list(function.params)[int(function.attrs["num_input"]) :]
    for var in declared:
        name = str(var.name)
        if name not in model.params:
            raise PostconditionError(
                pass_name, f'weight "{name}" is declared, but the model does not hold it'
            )
        param, shape = model.params[name], tuple(int(d) for d in var.ty.shape.values)
        if (param.shape, param.dtype) != (shape, str(var.ty.dtype)):
            raise PostconditionError(
                pass_name,
                f'weight "{name}" is {var.ty.dtype} {list(shape)} in the module, but {param.dtype} '
                f"{list(param.shape)} in the model",
            )
    unread = set(model.params) - {str(var.name) for var in declared}
    if unread:
        raise PostconditionError(pass_name, f"nothing reads the weights {sorted(unread)}")
