"""What one token asks of each operation, before it is decided how the products are carried out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Other", "Product", "Work"]


@dataclass(frozen=True)
class Product:
    """A product with weights or with cached elements, for one token.

    Attributes:
        name: Of the operation; ``:q`` and ``:p`` are the two products of an attention.
        inputs: Neurons that are encoded.
        synapses: Weights or cached elements that they meet: the multiplications of a dense product.
        outputs: Accumulators that are read out.
        weights: Stored weights; 0 where both factors are activations.
        cached: Elements read from the KV cache.
        appended: Elements written to it.
        weight_bits: Width of these weights; None: the format's.
        spikes: Spikes of all inputs together, where they were measured.
        synops: Spikes times the synapses that each met, where they were measured.
        time_steps: Steps of their trains, where they are known.
        scales: Weight scales (bfloat16 below 8 bits, else float32).
        probabilities: Whether the inputs are attention probabilities: unsigned, with levels of their own.
    """

    name: str
    inputs: float
    synapses: float
    outputs: float
    weights: float = 0
    cached: float = 0
    appended: float = 0
    weight_bits: int | None = None
    spikes: float | None = None
    synops: float | None = None
    time_steps: int | None = None
    scales: float = 0
    probabilities: bool = False


@dataclass(frozen=True)
class Other:
    """Arithmetic of float32 that is no product, for one token: encoders, norms, readouts, activations.

    Attributes:
        name: Of the kind of operation.
        spiking_only: Whether a dense program does not have it.
    """

    name: str
    additions: float
    multiplications: float
    nonlinear: float
    spiking_only: bool = False


@dataclass(frozen=True)
class Work:
    """One token of a model.

    Attributes:
        name: Of the model.
        context: Keys that a query meets.
        products: In the order of the program.
        others: Everything else.
    """

    name: str
    context: float
    products: tuple[Product, ...]
    others: tuple[Other, ...] = ()

    @property
    def synapses(self) -> float:
        """Multiplications of a dense execution."""
        return sum(p.synapses for p in self.products)
