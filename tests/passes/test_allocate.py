"""allocate: budgets in words, the exact choice, losses as measured, and the table."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from helpers.tiny_llama import decoder_inputs, tiny_llama
from scipy.special import log_softmax

from sdc.errors import ConfigError, PassError, PostconditionError
from sdc.ir.evaluate import Evaluator, Event
from sdc.ir.model import Encoding
from sdc.passes.allocate import Allocate, Budget, candidates, choose
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.calibrate import Calibrate
from sdc.passes.sensitivity import Choice, Site, measure_sites
from sdc.passes.spikes import dequantised
from sdc.passes.whole_loss import measure_whole

rng = np.random.default_rng(0)
WINDOW = rng.integers(0, 64, 24)


def context(**options) -> PassContext:
    return PassContext(PassOptions(levels=31, group=16, **options), (WINDOW,))


@pytest.mark.parametrize("text", ["ppl=1.05x", "ppl=1.05", "spikes=0.5x", "synops=0.5x"])
def test_a_budget_is_read(text) -> None:
    kind, number = text.rstrip("x").split("=")
    assert Budget.parse(text) == Budget(kind, float(number))


@pytest.mark.parametrize("text", ["", "ppl", "ppl=0.9x", "spikes=-1x", "energy=2x", "ppl=manyx"])
def test_a_budget_that_means_nothing_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="give ppl="):
        Budget.parse(text)


def random_sites(seed: int) -> list[Site]:
    random = np.random.default_rng(seed)
    sites = []
    for name in "abcd":
        spikes = np.sort(random.uniform(1, 10, 4))[::-1]
        loss = np.sort(random.uniform(0.001, 0.1, 4))
        fan_out = float(random.integers(5, 50))
        both = zip(spikes, loss, strict=True)
        sites.append(
            Site(name, 10, fan_out, tuple(Choice(Encoding(), s, s * fan_out, lost) for s, lost in both))
        )
    return sites


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [Budget("ppl", 1.15), Budget("spikes", 0.6), Budget("synops", 0.6)])
def test_the_choice_is_the_best_of_all(seed, budget) -> None:
    sites = random_sites(seed)

    kind = "synops" if budget.of == "ppl" else budget.of

    def spent(picks) -> tuple[float, float]:
        return sum(getattr(c, kind) for c in picks), sum(c.loss for c in picks)

    ways = [spent(picks) for picks in product(*(site.choices for site in sites))]
    if budget.of == "ppl":
        best = min(synops for synops, loss in ways if loss <= np.log(budget.factor))
        got = spent(choose(sites, budget))[0]
    else:
        limit = budget.factor * sum(getattr(site.choices[0], kind) for site in sites)
        best = min(loss for spikes, loss in ways if spikes <= limit)
        got = spent(choose(sites, budget))[1]
    assert got == pytest.approx(best, rel=1e-3)


def test_a_budget_that_nothing_keeps_is_an_error() -> None:
    with pytest.raises(PassError, match="no encodings keep ppl within"):
        choose(random_sites(0), Budget("ppl", 1.001))


def test_losses_are_those_of_one_spiking_operation() -> None:
    """Against a run of the float model whose head alone reads spikes."""
    ctx = context(spikes=1.5)
    model = Calibrate().run(tiny_llama(), ctx)
    sites = measure_sites(model, ctx, candidates)
    seen: list[Event] = []
    Evaluator(model, seen.append).run("forward", *decoder_inputs(model, WINDOW[None]))
    head = next(e for e in reversed(seen) if e.op == "linear")
    x, weight = head.args[0][0], head.args[1]
    spikes = dequantised(x, model.encodings[head.attrs["name"]])
    exact, other = (log_softmax(each @ weight.T, axis=-1) for each in (x, spikes))
    want = (np.exp(exact) * (exact - other)).sum(-1).mean()
    assert sites[-1].name == head.attrs["name"]
    assert sites[-1].choices[0].loss == pytest.approx(want, rel=1e-3)
    assert [s.name.rpartition(":")[2] == "q" for s in sites].count(True) == 2
    assert all(site.choices[0].loss > 0 for site in sites)


@pytest.mark.parametrize("budget", ["spikes=0.7x", "synops=0.7x", "ppl=1.2x"])
def test_encodings_change_and_the_table_says_how(budget) -> None:
    ctx = context(spikes=2.0, q_levels=3, budget=budget)
    before = Calibrate().run(tiny_llama(), ctx)
    with pytest.raises(PostconditionError, match="nothing was allocated"):
        Allocate().check(before, ctx)
    after = Allocate().run(before, ctx)
    Allocate().check(after, ctx)
    table = {str(row["name"]): row for row in after.allocation}
    for name, row in table.items():
        encoding = after.encodings[name]
        assert (encoding.floor, encoding.dead_zone, encoding.levels) == (
            row["floor"],
            row["dead_zone"],
            row["levels"],
        )
    assert len({row["spikes"] for row in table.values()}) > 3
    reached = measure_whole(before, ctx, after.encodings)
    if budget.startswith("ppl"):
        assert 0 < reached.loss <= np.log(1.2)
    else:
        start = measure_whole(before, ctx, before.encodings)
        fan_out = {name: row["fan_out"] if "synops" in budget else 1 for name, row in table.items()}
        spent, was = (sum(n * fan_out[name] for name, n in m.spikes.items()) for m in (reached, start))
        assert spent <= 0.75 * was  # queries are in the budget too, and not in these sums
    assert any(note.startswith(f"allocate: {budget.split('=')[0]} within") for note in after.notes)


def test_without_a_budget_nothing_is_measured() -> None:
    model = tiny_llama()
    assert Allocate().run(model, PassContext()) is model


def test_a_budget_needs_a_text() -> None:
    ctx = PassContext(PassOptions(budget="ppl=1.05x"))
    with pytest.raises(PassError, match="needs a decoder and a calibration text"):
        Allocate().run(Calibrate().run(tiny_llama(), ctx), ctx)
