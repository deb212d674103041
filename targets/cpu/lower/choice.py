"""Which form a linear takes while decoding: collapsed, or event-driven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Literal

from sdc.targets.cpu.dot import QUAD
from sdc.targets.cpu.kernels.event import LINE_BYTES, lines
from sdc.targets.cpu.kernels.linear import LinearSpec
from sdc.targets.cpu.kernels.packed import ROW_BLOCK

__all__ = [
    "COSTS",
    "Choice",
    "Choices",
    "Costs",
    "Form",
    "LoweringName",
    "choose",
    "collapsed_cost",
    "event_cost",
    "event_terms",
    "weights_read",
]

Form = Literal["collapsed", "event"]
LoweringName = Literal["auto", "event", "collapsed"]


@dataclass(frozen=True)
class Costs:
    """Nanoseconds of two threads that decode, for weights of one width.

    Attributes:
        weight: Collapsed, for each weight.
        channel: Event-driven, for each input channel: looking whether it fired.
        group: Event-driven, for each group of a block of rows.
        quad: Event-driven, for four channels that fired and a block of rows.
        jump: Event-driven, for each cache line of weights that fired beside one that did not: the processor
            fetches in advance only what is read in order.
    """

    weight: float
    channel: float
    group: float
    quad: float
    jump: float


# Fitted by `python benchmarks/crossover.py` (docs/benchmarks.md, "Event-driven against collapsed"): AMD EPYC,
# 2 threads, x86-64-v3. One table serves all instruction sets, as an artefact's weights do: where byte dot
# products are faster (AVX-512 VNNI), it errs towards the event-driven form by what they gain.
COSTS = {
    2: Costs(weight=0.0202, channel=5.24, group=6.12, quad=4.64, jump=29.9),
    4: Costs(weight=0.0327, channel=5.81, group=9.04, quad=6.35, jump=23.5),
    8: Costs(weight=0.0641, channel=3.15, group=22.4, quad=9.3, jump=11.1),
}


def weights_read(spec: LinearSpec) -> int:
    """How often a decode step pays ``weight``, whatever fired."""
    return ROW_BLOCK * spec.padded_group * spec.blocks * spec.groups


def event_terms(spec: LinearSpec, zeros: float) -> tuple[float, ...]:
    """How often it pays ``channel``, ``group``, ``quad``, ``jump`` where ``zeros`` of the counts are 0."""
    groups = spec.blocks * spec.groups
    jumps = zeros * (1 - zeros) * spec.width * lines(spec)
    return spec.width, groups, groups * expected_quads(spec.group, zeros), jumps


def collapsed_cost(spec: LinearSpec, costs: Costs) -> float:
    """Nanoseconds of a decode step in the collapsed form."""
    return costs.weight * weights_read(spec)


def event_cost(spec: LinearSpec, costs: Costs, zeros: float) -> float:
    """Nanoseconds of a decode step in the event-driven form."""
    terms, prices = event_terms(spec, zeros), astuple(costs)[1:]
    return sum(number * price for number, price in zip(terms, prices, strict=True))


def expected_quads(group: int, zeros: float) -> float:
    """Mean number of quads of a group: a quarter of what fires, and 3/8 to fill the last one up, if any."""
    return group * (1 - zeros) / QUAD + 3 / 8 * (1 - zeros**group)


def choose(spec: LinearSpec, zeros: float | None, lowering: LoweringName) -> Form:
    """The form of one linear; ``zeros`` is the share of its inputs' counts that are 0, None where unknown."""
    if lowering != "auto":
        return lowering
    if zeros is None:
        return "collapsed"
    costs = COSTS[spec.bits]
    return "event" if event_cost(spec, costs, zeros) < collapsed_cost(spec, costs) else "collapsed"


@dataclass(frozen=True)
class Choice:
    """What a linear decodes by, and why; costs in nanoseconds, 0 where ``zeros`` is not known.

    Attributes:
        extra_bytes: Weights by input channel, beside those that prefill reads.
    """

    name: str
    lowering: Form
    zeros: float | None
    collapsed_cost: float
    event_cost: float
    extra_bytes: int

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Choices:
    """The form of every linear of a program.

    Attributes:
        lowering: ``auto`` chooses by cost; the others are what all linears take while decoding.
        zeros: Shares of counts that are 0, by operation name.
        made: What was chosen, by operation name.
    """

    lowering: LoweringName
    zeros: Mapping[str, float]
    made: dict[str, Choice] = field(default_factory=dict)

    def form(self, name: str, spec: LinearSpec) -> Form:
        """The form of an operation; collapsed for more than one token."""
        if spec.tokens != 1:
            return "collapsed"
        zeros, costs = self.zeros.get(name), COSTS[spec.bits]
        form = choose(spec, zeros, self.lowering)
        both = (0.0, 0.0)
        if zeros is not None:
            both = (round(collapsed_cost(spec, costs)), round(event_cost(spec, costs, zeros)))
        extra = lines(spec) * spec.width * LINE_BYTES if form == "event" else 0
        self.made[name] = Choice(name, form, zeros, *both, extra)
        return form

    def summary(self) -> str:
        """One sentence on a program's linears."""
        event = [choice for choice in self.made.values() if choice.lowering == "event"]
        if not event:
            return f"all {len(self.made)} linears collapsed"
        extra = sum(choice.extra_bytes for choice in event)
        return (
            f"{len(event)} of {len(self.made)} linears event-driven; their weights are stored a second time, "
            f"by input channel, {extra / 1e6:.1f} MB, as prefill reads the collapsed form's"
        )
