"""Checks of a finished mapping, written apart from what made it."""

from sdc.targets.neuro.verify.verify import MappingError, Violation, check_mapping, verify_mapping

__all__ = ["MappingError", "Violation", "check_mapping", "verify_mapping"]
