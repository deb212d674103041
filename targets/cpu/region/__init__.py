"""A whole decoder step as one parallel region: threads claim pieces of kernels, and wait only for pieces."""

from sdc.targets.cpu.region.lower import add_regions
from sdc.targets.cpu.region.region import Region, make_region

__all__ = ["Region", "add_regions", "make_region"]
