"""How a product is carried out: dense in some number type, or by spikes in some coding."""

from __future__ import annotations

from dataclasses import dataclass

from sdc.energy.tables import EnergyTable
from sdc.ir.coding import time_steps
from sdc.ir.model import Coding
from sdc.targets.neuro.mapping.statistics import SpikeStatistics

__all__ = ["DENSE", "Format", "dense_format", "sdc_format", "spikellm_format", "spiking_format"]


@dataclass(frozen=True)
class Format:
    """A way to carry out the products of a model.

    Attributes:
        name: For tables.
        number: Number type that a dense product multiplies; "" where spikes only add.
        accumulate: Number type of the additions.
        weight_bits: Width of a stored weight.
        activation_bits: Width of an activation between operations.
        kv_bits: Width of a cached key or value element.
        time_steps: T; 1 for dense products.
        spikes_per_neuron: Mean operations that one input causes at each of its synapses: T * R; 1 for dense
            products. What was measured of a single operation goes before it.
        probability_spikes: The same for attention probabilities; None: ``spikes_per_neuron``.
        source: What the entry follows.
    """

    name: str
    number: str
    accumulate: str
    weight_bits: int
    activation_bits: int
    kv_bits: int
    time_steps: int = 1
    spikes_per_neuron: float = 1.0
    probability_spikes: float | None = None
    source: str = ""

    def spikes(self, probabilities: bool) -> float:
        """Operations per input and synapse, of attention probabilities or of anything else."""
        if probabilities and self.probability_spikes is not None:
            return self.probability_spikes
        return self.spikes_per_neuron

    @property
    def spiking(self) -> bool:
        """Whether products are additions that spikes cause."""
        return not self.number

    @property
    def firing_rate(self) -> float:
        """R: operations of one input per time step."""
        return self.spikes_per_neuron / self.time_steps

    def operation(self, table: EnergyTable) -> float:
        """Energy of one operation at one synapse, pJ: a multiply-add, or the addition of a spike."""
        added = table.add[self.accumulate]
        return added if self.spiking else added + table.multiply[self.number]


DENSE = (
    Format("fp16", "fp16", "fp16", 16, 16, 16, source="multiply and add in IEEE half precision"),
    Format("int8", "int8", "int32", 8, 8, 8, source="W8A8 with int32 accumulators, as in TPUv1"),
    Format("w4a4", "int4", "int32", 4, 4, 4, source="W4A4 with int32 accumulators (QuaRot, DuQuant)"),
)


def dense_format(name: str) -> Format:
    """The dense format of a name: fp16, int8 or w4a4."""
    return next(form for form in DENSE if form.name == name)


def spiking_format(
    name: str,
    time_steps: int,
    spikes: float,
    *,
    weight_bits: int,
    kv_bits: int = 8,
    probability_spikes: float | None = None,
    source: str = "",
) -> Format:
    """Signed spikes that add weights to int32 accumulators; results leave as float32."""
    return Format(name, "", "int32", weight_bits, 32, kv_bits, time_steps, spikes, probability_spikes, source)


def sdc_format(coding: Coding, levels: int, *, weight_bits: int, keys: float) -> Format:
    """What this compiler makes: spikes as measured on SmolLM2-135M, or expected of normal variables."""
    known = SpikeStatistics(levels=levels, coding=coding)
    return spiking_format(
        f"sdc {coding} D={levels} W{weight_bits}",
        time_steps(coding, levels),
        known.spikes(""),
        weight_bits=weight_bits,
        probability_spikes=known.probability_spikes(max(1, round(keys))),
        source="spikes per neuron as measured on SmolLM2-135M",
    )


def spikellm_format(levels: int = 7, *, weight_bits: int = 4) -> Format:
    """Unsigned spikes about a zero point, T = 2 D steps (our reading of SpikeLLM, arXiv 2407.04752).

    An asymmetric quantiser moves zero to the middle of 0..2 D, so that inputs symmetric about zero fire D
    times on average, silent ones included.
    """
    source = "arXiv 2407.04752: unsigned counts about a zero point, extra steps of salient channels left out"
    return spiking_format(
        f"spikellm D={levels} W{weight_bits}",
        time_steps("binary", levels),
        float(levels),
        weight_bits=weight_bits,
        kv_bits=4,
        source=source,
    )
