"""All passes by name."""

from __future__ import annotations

from difflib import get_close_matches

from sdc.errors import ConfigError
from sdc.passes.allocate import Allocate
from sdc.passes.base import Pass
from sdc.passes.calibrate import Calibrate
from sdc.passes.canonicalise import Canonicalise
from sdc.passes.fold_norm_gamma import FoldNormGamma
from sdc.passes.merge_parallel_linears import MergeParallelLinears
from sdc.passes.project import Project
from sdc.passes.quantise_tables import QuantiseTables
from sdc.passes.quantise_weights import QuantiseWeights
from sdc.passes.rewrite_matmul_to_spikes import RewriteMatmulToSpikes
from sdc.passes.rotate_residual import RotateResidual
from sdc.passes.smooth import Smooth
from sdc.passes.verify_spike_driven import VerifySpikeDriven

__all__ = ["PASSES", "find_pass"]

PASSES: dict[str, Pass] = {
    each.name: each
    for each in (
        Canonicalise(),
        MergeParallelLinears(),
        FoldNormGamma(),
        RotateResidual(),
        Smooth(),
        Project(),
        QuantiseTables(),
        Calibrate(),
        Allocate(),
        QuantiseWeights(),
        RewriteMatmulToSpikes(),
        VerifySpikeDriven(),
    )
}


def find_pass(name: str) -> Pass:
    """The pass of that name.

    Raises:
        ConfigError: There is none.
    """
    if name in PASSES:
        return PASSES[name]
    near = get_close_matches(name, PASSES, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f'there is no pass "{name}"; {hint}passes are: {", ".join(PASSES)}')
