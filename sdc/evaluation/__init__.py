"""Measuring programs: perplexity beside the original model's, and what fired."""

from sdc.evaluation.evaluate import Evaluation, evaluate
from sdc.evaluation.perplexity import Perplexity, negative_log_likelihood, windows_of
from sdc.evaluation.reference import Reference, open_reference

__all__ = [
    "Evaluation",
    "Perplexity",
    "Reference",
    "evaluate",
    "negative_log_likelihood",
    "open_reference",
    "windows_of",
]
