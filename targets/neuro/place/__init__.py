"""Placement: which core holds which tile."""

from sdc.targets.neuro.place.bisect import place_by_bisection
from sdc.targets.neuro.place.bound import lower_bound
from sdc.targets.neuro.place.cost import on_chip, spike_hops
from sdc.targets.neuro.place.place import Placement, place, place_randomly

__all__ = [
    "Placement",
    "lower_bound",
    "on_chip",
    "place",
    "place_by_bisection",
    "place_randomly",
    "spike_hops",
]
