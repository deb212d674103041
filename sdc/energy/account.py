"""From work to energy: every operation and every byte, by component.

The machine is the same for all formats, so that formats compare:

- one addition, or one multiplication and one addition, at each synapse that an input or a spike meets;
- for each of them, the weight (or cached element) comes from the 8 KB SRAM beside the unit. Dense products of
  several tokens share that reading as in a systolic array, and keep accumulators in registers. A spike comes
  alone: it reads its weights for itself, and reads and writes its accumulators in that SRAM, as neuromorphic
  cores do (``accumulators="register"``: an array with a unit for each output, to which spikes are broadcast).
  That is the harder case for spikes; a collapsed program (count times weight) is the dense one;
- weights come from external memory once for all tokens of a pass (``batch``), the KV cache once for as many
  queries as the array has rows; both pass through the shared SRAM (in and out);
- an activation is written to the shared SRAM and read from it; where spikes carry it, each spike is a packet
  of 4 bytes that is written and read there, and results are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sdc.energy.formats import Format
from sdc.energy.tables import EnergyTable
from sdc.energy.work import Other, Product, Work

__all__ = ["COMPONENTS", "Account", "Accumulators", "OpAccount", "account"]

Accumulators = Literal["memory", "register"]

COMPONENTS = ("products", "arithmetic", "weights", "accumulators", "activations", "kv_cache", "packets")
"""``products`` alone is what papers on spiking models count; all together are "everything"."""

ACCUMULATOR_BYTES = 4  # int32
SCALE_BYTES = {True: 2, False: 4}  # by whether weights have less than 8 bits: bfloat16, float32
ARRAY = 128  # rows of a systolic array: TPUv4i has 128 x 128 units (Jouppi et al., ISCA 2021, table 1)
PACKET_BYTES = 4  # address and payload: the 32-bit word of an address-event packet


@dataclass(frozen=True)
class OpAccount:
    """One operation, one token.

    Attributes:
        counts: ``synaptic_operations`` (of products), ``additions``, ``multiplications``, ``nonlinear``,
            ``spikes``, and bytes by memory level: ``local_bytes``, ``global_bytes``, ``dram_bytes``.
        energy: pJ by component.
    """

    name: str
    counts: Mapping[str, float]
    energy: Mapping[str, float]


@dataclass(frozen=True)
class Account:
    """A whole model, one token.

    Attributes:
        format, table: Names of what was assumed.
        batch: Tokens that share one reading of the weights.
        time_steps: T of the format.
        ops: One entry an operation.
    """

    format: str
    table: str
    time_steps: int
    batch: float
    ops: tuple[OpAccount, ...]

    @property
    def components(self) -> dict[str, float]:
        """pJ by component."""
        return {c: sum(op.energy.get(c, 0.0) for op in self.ops) for c in COMPONENTS}

    @property
    def counts(self) -> dict[str, float]:
        """Operations, spikes and bytes in all."""
        names = dict.fromkeys(name for op in self.ops for name in op.counts)
        return {name: sum(op.counts.get(name, 0.0) for op in self.ops) for name in names}

    @property
    def compute_only(self) -> float:
        """pJ of the products alone: the papers' convention."""
        return self.components["products"]

    @property
    def everything(self) -> float:
        """pJ of all components."""
        return sum(self.components.values())

    def to_json(self) -> dict[str, Any]:
        """JSON values; energies in joules."""
        return {
            "format": self.format,
            "table": self.table,
            "tokens_per_weight_reading": self.batch,
            "compute_only_joules": self.compute_only * 1e-12,
            "everything_joules": self.everything * 1e-12,
            "components_joules": {k: v * 1e-12 for k, v in self.components.items()},
            "counts": self.counts,
            "ops": [
                {"name": op.name, "counts": dict(op.counts), "energy_pj": dict(op.energy)} for op in self.ops
            ],
        }


def account(
    work: Work,
    form: Format,
    table: EnergyTable,
    *,
    batch: float = 1,
    accumulators: Accumulators = "memory",
) -> Account:
    """Counts and energy of one token.

    Args:
        work: What the model asks for.
        form: How products are carried out; measured spikes of a product go before the format's.
        table: Energies.
        batch: Tokens that share one reading of the weights: 1 where a token is decoded, the length of the
            prompt where a prompt is read.
        accumulators: Where a spike finds them.
    """
    kept = accumulators == "register"
    ops = [_product(product, form, table, batch, kept) for product in work.products]
    ops += [_other(other, table) for other in work.others if form.spiking or not other.spiking_only]
    return Account(form.name, table.name, form.time_steps, batch, tuple(ops))


def _product(product: Product, form: Format, table: EnergyTable, batch: float, registers: bool) -> OpAccount:
    spikes, operations = 0.0, product.synapses
    if form.spiking:
        expected = form.spikes(product.probabilities)
        spikes = _or(product.spikes, expected * product.inputs)
        operations = _or(product.synops, expected * product.synapses)
    local, shared, external = _traffic(product, form, operations, batch)
    packets = 2 * PACKET_BYTES * spikes
    results = 2 * product.outputs * form.activation_bits / 8
    inputs = 0.0 if form.spiking else 2 * product.inputs * form.activation_bits / 8
    accumulators = 2 * ACCUMULATOR_BYTES * operations if form.spiking and not registers else 0.0
    memory = "kv_cache" if product.cached else "weights"
    energy = {
        "products": operations * form.operation(table),
        memory: local * table.per_byte("local")
        + shared * table.per_byte("global")
        + external * table.per_byte("dram"),
        "accumulators": accumulators * table.per_byte("local"),
        "activations": (inputs + results) * table.per_byte("global"),
        "packets": packets * table.per_byte("global"),
    }
    counts = {
        "synaptic_operations": operations,
        "additions": operations,
        "multiplications": 0.0 if form.spiking else operations,
        "nonlinear": 0.0,
        "spikes": spikes,
        "local_bytes": local + accumulators,
        "global_bytes": shared + packets + inputs + results,
        "dram_bytes": external,
    }
    return OpAccount(product.name, counts, energy)


def _traffic(product: Product, form: Format, operations: float, batch: float) -> tuple[float, float, float]:
    """Bytes of weights or cached elements: at the units, through the shared SRAM, from external memory."""
    bits = form.kv_bits if product.cached else product.weight_bits or form.weight_bits
    width, shared_by = bits / 8, min(batch, ARRAY)
    external = (product.weights * width + product.scales * SCALE_BYTES[bits < 8]) / batch
    external += (product.cached / shared_by + product.appended) * width
    local = operations * width / (1 if form.spiking else shared_by)
    return local, 2 * external, external


def _other(other: Other, table: EnergyTable) -> OpAccount:
    counts = {
        "additions": other.additions,
        "multiplications": other.multiplications,
        "nonlinear": other.nonlinear,
    }
    energy = (
        other.additions * table.add["fp32"]
        + other.multiplications * table.multiply["fp32"]
        + other.nonlinear * table.nonlinear
    )
    return OpAccount(other.name, counts, {"arithmetic": energy})


def _or(measured: float | None, assumed: float) -> float:
    return assumed if measured is None else measured
