"""Allocate: thresholds of every operation under one budget, of perplexity or of spikes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from sdc.errors import ConfigError, PassError, PostconditionError
from sdc.ir.model import Encoding, Model
from sdc.passes.base import PassContext
from sdc.passes.sensitivity import Choice, Site, measure_sites

__all__ = ["Allocate", "Budget", "choose"]

COUNTS = (0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)  # wanted mean counts
ZONES = (0.0, 0.6, 0.7, 0.8)  # dead zones; up to 0.5 rounding alone is as silent
QUERY_LEVELS = (3, 5, 7, 10, 15, 31)


@dataclass(frozen=True)
class Budget:
    """What must not be exceeded: perplexity over the float model's, or spikes over those so far."""

    of: Literal["ppl", "spikes"]
    factor: float

    @staticmethod
    def parse(text: str) -> Budget:
        """``ppl=1.05x`` or ``spikes=0.5x``.

        Raises:
            ConfigError: It is neither.
        """
        kind, _, number = text.partition("=")
        try:
            factor = float(number.removesuffix("x"))
        except ValueError:
            factor = 0.0
        if kind == "ppl" and factor > 1:
            return Budget("ppl", factor)
        if kind == "spikes" and factor > 0:
            return Budget("spikes", factor)
        raise ConfigError(f'budget "{text}": give ppl=1.05x (above 1) or spikes=0.5x (above 0)')


class Allocate:
    """Chooses each operation's thresholds so that the whole model keeps a budget at the least cost.

    Under ``ppl=Fx`` the sum of losses stays below ln F, and spikes are fewest; under ``spikes=Fx`` spikes
    stay below F times those of the encodings so far, and the sum of losses is least. Losses are measured
    (:mod:`sdc.passes.sensitivity`); the choice is an integer program: one encoding an operation, solved
    exactly by HiGHS. It decides floors and dead zones of linears, and levels of queries. The loss of integer
    weights, and what losses of several operations do together, is not in the sum.
    """

    name = "allocate"

    def run(self, model: Model, ctx: PassContext) -> Model:
        if not ctx.options.budget:
            return model
        budget = Budget.parse(ctx.options.budget)
        sites = measure_sites(model, ctx, candidates)
        chosen = choose(sites, budget)
        encodings = {site.name: pick.encoding for site, pick in zip(sites, chosen, strict=True)}
        table = tuple(_row(site, pick) for site, pick in zip(sites, chosen, strict=True))
        return replace(model, encodings={**model.encodings, **encodings}, allocation=table)

    def check(self, model: Model, ctx: PassContext) -> None:
        if ctx.options.budget and not model.allocation:
            raise PostconditionError(self.name, "nothing was allocated")


def candidates(x: NDArray, start: Encoding) -> list[Encoding]:
    """The encoding so far, then floors for :data:`COUNTS` with :data:`ZONES`; for queries, levels."""
    if start.group == 0:
        return [start, *(replace(start, levels=levels) for levels in QUERY_LEVELS)]
    mean = float(np.abs(x).mean())
    return [
        start,
        *(replace(start, floor=mean / count, dead_zone=zone) for count in COUNTS for zone in ZONES),
    ]


def choose(sites: Sequence[Site], budget: Budget) -> list[Choice]:
    """One choice a site: the exact optimum, within 0.01 %.

    Raises:
        PassError: No choice keeps the budget.
    """
    flat = [choice for site in sites for choice in site.choices]
    spikes, loss = np.array([c.spikes for c in flat]), np.array([c.loss for c in flat])
    if budget.of == "ppl":
        cost, limited, limit = spikes, loss, np.log(budget.factor)
    else:
        now = sum(site.choices[0].spikes for site in sites)
        cost, limited, limit = loss, spikes, budget.factor * now
    owner = np.repeat(np.arange(len(sites)), [len(site.choices) for site in sites])
    one_each = coo_array((np.ones(len(flat)), (owner, np.arange(len(flat)))))
    scale = max(float(cost.max()), 1e-30)  # the solver's tolerances are absolute
    found = milp(
        cost / scale,
        integrality=np.ones(len(flat)),
        bounds=(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint((limited / limit)[None], -np.inf, 1),
        ],
        options={"mip_rel_gap": 1e-4},
    )
    if found.x is None:
        raise PassError("allocate", f"no encodings keep {budget.of} within {budget.factor}x: {found.message}")
    return [flat[i] for i in np.flatnonzero(np.round(found.x))]


def _row(site: Site, pick: Choice) -> dict[str, float | str]:
    """A row of the manifest's table; spikes per neuron, losses in nats a token."""
    start = site.choices[0]
    return {
        "name": site.name,
        "measured_loss": start.loss,
        "measured_spikes": start.spikes / site.neurons,
        "loss": pick.loss,
        "spikes": pick.spikes / site.neurons,
        "levels": pick.encoding.levels,
        "floor": pick.encoding.floor,
        "dead_zone": pick.encoding.dead_zone,
    }
