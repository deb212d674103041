"""Pictures of a simulated run: where on the chips it happens, and what it costs."""

from sdc.targets.neuro.pictures.chips import link_map, occupancy_map
from sdc.targets.neuro.pictures.energy import energy_by_layer, energy_waterfall

__all__ = ["energy_by_layer", "energy_waterfall", "link_map", "occupancy_map"]
