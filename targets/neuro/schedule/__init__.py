"""When each core works on which token, how deep its buffers are, and where it must wait for others."""

from sdc.targets.neuro.schedule.costs import Costs, tile_costs
from sdc.targets.neuro.schedule.schedule import Schedule, schedule
from sdc.targets.neuro.schedule.stream import Loads

__all__ = ["Costs", "Loads", "Schedule", "schedule", "tile_costs"]
