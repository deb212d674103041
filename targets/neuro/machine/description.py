"""The fields of a machine description. Every number has its unit in its name.

A board is a grid of equal chips, a chip a grid of routers, and a router serves one core or (hierarchical) a
cluster of cores. Routers of all chips form one grid; a link that crosses the edge of a chip is slower and
costs more.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Board", "Core", "Energy", "ExternalMemory", "Machine", "Network"]

Count = Annotated[int, Field(gt=0, strict=True)]
Size = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Board(_Section):
    """How many chips there are, and of how many routers each consists.

    Attributes:
        chips_x, chips_y: Chips of the largest board that may be used; unused chips cost nothing.
        routers_x, routers_y: Routers of one chip.
        cores_per_router: Cores of one cluster; above 1 only in a hierarchical network.
        static_power_mw_per_chip: Leakage, clocks and everything that is spent whether or not spikes flow.
    """

    chips_x: Count
    chips_y: Count
    routers_x: Count
    routers_y: Count
    cores_per_router: Count = 1
    static_power_mw_per_chip: Amount

    @property
    def cores_per_chip(self) -> int:
        """Cores of one chip."""
        return self.routers_x * self.routers_y * self.cores_per_router

    @property
    def chips(self) -> int:
        """Chips of the whole board."""
        return self.chips_x * self.chips_y

    @property
    def cores(self) -> int:
        """Cores of the whole board."""
        return self.chips * self.cores_per_chip


class Network(_Section):
    """Links and routers.

    Attributes:
        topology: ``mesh``; ``torus`` (rows and columns of routers close into rings); ``hierarchical`` (a mesh
            of clusters, ``board.cores_per_router`` cores each).
        virtual_channels: Independent buffers per link. With 2 or more, a mesh routes each spike in x-then-y
            or y-then-x order, whichever tree is shorter; a ring needs 2 of them for its dateline.
        packet_bits: Size of one spike or word packet, header included.
        payload_bits: Payload of a packet that carries a value instead of a spike.
        link_width_bits: Bits that one link moves in one cycle of ``link_clock_mhz``.
        hop_latency_ns: Router and wire, per hop, of the packet's head.
        hop_energy_pj: One packet over one hop on a chip.
        cluster_latency_ns, cluster_energy_pj: One packet from a router into one of its cores.
        chip_link_gbit_per_s: One edge of a chip, shared by all router rows or columns that cross it.
        chip_hop_latency_ns, chip_hop_energy_pj: One packet over one chip-to-chip hop.
        barrier_latency_ns: A global barrier.
    """

    topology: Literal["mesh", "torus", "hierarchical"]
    virtual_channels: Count
    packet_bits: Count
    payload_bits: Count
    link_width_bits: Count
    link_clock_mhz: Positive
    hop_latency_ns: Amount
    hop_energy_pj: Amount
    cluster_latency_ns: Amount
    cluster_energy_pj: Amount
    chip_link_gbit_per_s: Positive
    chip_hop_latency_ns: Amount
    chip_hop_energy_pj: Amount
    barrier_latency_ns: Amount

    @property
    def packet_time_ns(self) -> float:
        """How long one packet occupies a link inside a chip."""
        cycles = -(-self.packet_bits // self.link_width_bits)
        return cycles * 1e3 / self.link_clock_mhz

    @model_validator(mode="after")
    def _payload_fits(self) -> Self:
        if self.payload_bits > self.packet_bits:
            raise ValueError(
                f"payload_bits ({self.payload_bits}) must not exceed packet_bits ({self.packet_bits})"
            )
        return self


class Core(_Section):
    """One core.

    Attributes:
        clock_mhz: Cycles of the core; an asynchronous core states an equivalent.
        synapse_memory_bytes: Weights (and the KV cache of attention).
        neuron_memory_bytes: Accumulators, thresholds, weight scales, vectors.
        spike_buffer_packets: Packets that wait for the core, both halves of the double buffer together.
        synaptic_lanes: Weights added in one cycle.
        vector_lanes: Float or fixed-point operations in one cycle.
        cycles_per_spike: Overhead of taking one spike out of the buffer, beyond its additions.
        weight_bits: Weight widths that the synapse memory packs; the narrowest that holds a weight is used.
    """

    clock_mhz: Positive
    synapse_memory_bytes: Count
    neuron_memory_bytes: Count
    spike_buffer_packets: Count
    synaptic_lanes: Count
    vector_lanes: Count
    cycles_per_spike: Size
    weight_bits: tuple[Count, ...] = Field(min_length=1)

    def stored_bits(self, bits: int) -> int:
        """Bits that a weight of ``bits`` takes in the synapse memory.

        Raises:
            ValueError: The core has no format that wide.
        """
        fitting = [width for width in self.weight_bits if width >= bits]
        if not fitting:
            raise ValueError(
                f"weights of {bits} bits do not fit: the core stores {sorted(self.weight_bits)} bits"
            )
        return min(fitting)


class Energy(_Section):
    """What one event costs.

    Attributes:
        synaptic_add_pj: By weight width in bits: one spike meeting one synapse, its weight's fetch included.
        neuron_update_pj: Reading out one accumulator (scale, bias) or deciding one spike count.
        spike_send_pj, spike_receive_pj: One packet leaving / entering a core, its table look-ups included.
        sram_access_pj_per_byte: Vectors and KV cache in core memory.
        dram_access_pj_per_byte: External memory.
        vector_op_pj: One float or fixed-point operation.
    """

    synaptic_add_pj: dict[int, Positive] = Field(min_length=1)
    neuron_update_pj: Amount
    spike_send_pj: Amount
    spike_receive_pj: Amount
    sram_access_pj_per_byte: Amount
    dram_access_pj_per_byte: Amount
    vector_op_pj: Amount

    def synaptic_add(self, bits: int) -> float:
        """pJ of one synaptic addition with weights of ``bits``.

        The narrowest width listed that holds them counts; beyond the widest, energy grows in proportion.
        """
        fitting = [width for width in self.synaptic_add_pj if width >= bits]
        if fitting:
            return self.synaptic_add_pj[min(fitting)]
        widest = max(self.synaptic_add_pj)
        return self.synaptic_add_pj[widest] * bits / widest


class ExternalMemory(_Section):
    """Memory beside each chip, from which weights can be streamed."""

    capacity_bytes_per_chip: Count
    bandwidth_gb_per_s_per_chip: Positive
    latency_ns: Amount


class Machine(_Section):
    """A many-core machine.

    Attributes:
        external_memory: None where the chips have none: then a model must fit into the cores.
    """

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9.-]*$")
    summary: str = ""
    board: Board
    network: Network
    core: Core
    energy: Energy
    external_memory: ExternalMemory | None = None

    @model_validator(mode="after")
    def _cluster_needs_hierarchy(self) -> Self:
        clustered = self.board.cores_per_router > 1
        if clustered != (self.network.topology == "hierarchical"):
            raise ValueError(
                f"topology {self.network.topology!r} contradicts cores_per_router "
                f"{self.board.cores_per_router}: "
                "clusters of several cores are 'hierarchical', and only they are"
            )
        return self
