"""Runs any module of ours op by op in NumPy: what calibration runs on, and the oracle for every target."""

from sdc.ir.evaluate.evaluator import Evaluator, Event, Hook, PendingAccumulator
from sdc.ir.evaluate.lockstep import Lockstep, Replace

__all__ = ["Evaluator", "Event", "Hook", "Lockstep", "PendingAccumulator", "Replace"]
