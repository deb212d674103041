"""Allocate: thresholds of every operation under one budget, of perplexity, spikes or synops."""

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
from sdc.passes.whole_loss import measure_whole

__all__ = ["Allocate", "Budget", "choose"]

COUNTS = (0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)  # wanted mean counts
ZONES = (0.0, 0.6, 0.7, 0.8)  # dead zones; up to 0.5 rounding alone is as silent
LEVELS = 127  # with a floor, levels only bound outliers
QUERY_LEVELS = (3, 5, 7, 10, 15, 31)
CORRECTIONS = 4  # of the limit, after the whole was measured
NEAR = 0.94  # of the budget: near enough to stop


@dataclass(frozen=True)
class Budget:
    """What must not be exceeded: perplexity over the float model's, or spikes or synops over those so far."""

    of: Literal["ppl", "spikes", "synops"]
    factor: float

    @staticmethod
    def parse(text: str) -> Budget:
        """``ppl=1.05x``, ``spikes=0.5x`` or ``synops=0.5x``.

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
        if kind in ("spikes", "synops") and factor > 0:
            return Budget(kind, factor)  # type: ignore[arg-type]  # it is one of the two
        raise ConfigError(f'budget "{text}": give ppl=1.05x (above 1), spikes=0.5x or synops=0.5x (above 0)')


class Allocate:
    """Chooses each operation's thresholds so that the whole model keeps a budget at the least cost.

    Under ``ppl=Fx`` the sum of losses stays below ln F, and synops are fewest: a spike costs as many
    additions as its neuron has synapses, so fewer spikes alone may cost more. Under ``spikes=Fx`` and
    ``synops=Fx`` these stay below F times those of the encodings so far, and the sum of losses is least.
    Losses are measured (:mod:`sdc.passes.sensitivity`); the choice is an integer program: one encoding an
    operation, solved exactly by HiGHS. It decides floors and dead zones of linears, and levels of queries.

    What losses of several operations do together is not in their sum. So the whole is measured with all that
    was chosen (:mod:`sdc.passes.whole_loss`), and chosen again under a limit moved by what was missed, up to
    :data:`CORRECTIONS` times; a remark says how near it came. What GPTQ's weights lose is not in it.
    """

    name = "allocate"

    def run(self, model: Model, ctx: PassContext) -> Model:
        if not ctx.options.budget:
            return model
        budget = Budget.parse(ctx.options.budget)
        sites = measure_sites(model, ctx, candidates)
        chosen, reached = _corrected(model, ctx, sites, budget)
        table = tuple(_row(site, pick) for site, pick in zip(sites, chosen, strict=True))
        zeros = {site.name: pick.zeros for site, pick in zip(sites, chosen, strict=True)}
        model = replace(
            model,
            encodings=_encodings(model, sites, chosen),
            zeros={**model.zeros, **zeros},
            allocation=table,
        )
        return model.with_note(
            f"{self.name}: {budget.of} within {budget.factor:g}x: {reached:.3f}x on the calibration text"
        )

    def check(self, model: Model, ctx: PassContext) -> None:
        if ctx.options.budget and not model.allocation:
            raise PostconditionError(self.name, "nothing was allocated")


def candidates(x: NDArray, start: Encoding) -> list[Encoding]:
    """The encoding so far, then floors for :data:`COUNTS` with :data:`ZONES`; for queries, levels.

    Floors are tried with the levels so far and with :data:`LEVELS`, where these only bound outliers.
    """
    if start.group == 0:
        return [start, *(replace(start, levels=levels) for levels in QUERY_LEVELS)]
    mean, levels = float(np.abs(x).mean()), dict.fromkeys((start.levels, max(start.levels, LEVELS)))
    return [
        start,
        *(
            replace(start, levels=most, floor=mean / count, dead_zone=zone)
            for most in levels
            for count in COUNTS
            for zone in ZONES
        ),
    ]


def _corrected(
    model: Model, ctx: PassContext, sites: Sequence[Site], budget: Budget
) -> tuple[list[Choice], float]:
    """The choice that keeps the budget as the whole is measured, and the factor that it reaches.

    The nearest to the budget of those that keep it; where none does, the one that exceeds it least.
    """

    def measured(picks: Sequence[Choice]) -> float:
        found = measure_whole(model, ctx, _encodings(model, sites, picks))
        if budget.of == "ppl":
            return found.loss
        weigh = [site.fan_out if budget.of == "synops" else 1.0 for site in sites]
        spikes = [found.spikes.get(site.name, pick.spikes) for site, pick in zip(sites, picks, strict=True)]
        return float(np.dot(weigh, spikes))

    limit = np.log(budget.factor) if budget.of == "ppl" else budget.factor
    base = 1.0 if budget.of == "ppl" else measured([site.choices[0] for site in sites])
    tried: list[tuple[float, list[Choice]]] = []
    share = 1.0
    for done in range(CORRECTIONS + 1):
        ctx.progress("keeping the budget", done, CORRECTIONS + 1)
        try:
            picks = choose(sites, budget, share)
        except PassError:
            if not tried:
                raise
            break  # nothing keeps what the corrections ask for; the nearest so far is as good as it gets
        tried.append((measured(picks) / base, picks))
        miss = tried[-1][0] / limit
        if NEAR <= miss <= 1:
            break
        share *= (1 + NEAR) / 2 / miss
    kept = [each for each in tried if each[0] <= limit]
    reached, picks = max(kept, key=_reached) if kept else min(tried, key=_reached)
    return picks, float(np.exp(reached)) if budget.of == "ppl" else reached


def _reached(attempt: tuple[float, list[Choice]]) -> float:
    return attempt[0]


def _encodings(model: Model, sites: Sequence[Site], picks: Sequence[Choice]) -> dict[str, Encoding]:
    """The model's encodings with those that were picked."""
    return {
        **model.encodings,
        **{site.name: pick.encoding for site, pick in zip(sites, picks, strict=True)},
    }


def choose(sites: Sequence[Site], budget: Budget, share: float = 1.0) -> list[Choice]:
    """One choice a site: the exact optimum, within 0.01 %, under ``share`` of the budget's limit.

    Raises:
        PassError: No choice keeps the budget.
    """
    flat = [choice for site in sites for choice in site.choices]
    loss = np.array([c.loss for c in flat])
    if budget.of == "ppl":
        cost, limited, limit = np.array([c.synops for c in flat]), loss, np.log(budget.factor)
    else:
        cost, limited = loss, np.array([getattr(c, budget.of) for c in flat])
        limit = budget.factor * sum(getattr(site.choices[0], budget.of) for site in sites)
    owner = np.repeat(np.arange(len(sites)), [len(site.choices) for site in sites])
    one_each = coo_array((np.ones(len(flat)), (owner, np.arange(len(flat)))))
    scale = max(float(cost.max()), 1e-30)  # the solver's tolerances are absolute
    found = milp(
        cost / scale,
        integrality=np.ones(len(flat)),
        bounds=(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint((limited / limit)[None], -np.inf, share),
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
        "fan_out": site.fan_out,
        "levels": pick.encoding.levels,
        "floor": pick.encoding.floor,
        "dead_zone": pick.encoding.dead_zone,
    }
