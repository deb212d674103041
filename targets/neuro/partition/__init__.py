"""Cutting operations to the size of cores."""

from sdc.targets.neuro.partition.partition import DoesNotFit, partition

__all__ = ["DoesNotFit", "partition"]
