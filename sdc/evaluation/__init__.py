"""Measuring programs: perplexity and next tokens beside the original model's, layers, what fired."""

from sdc.evaluation.agreement import Agreement, compare_logits
from sdc.evaluation.evaluate import Evaluation, Scorer, evaluate, evaluate_windows
from sdc.evaluation.layers import LayerFidelity, compare_layers
from sdc.evaluation.module import ModuleScorer
from sdc.evaluation.perplexity import Perplexity, negative_log_likelihood, windows_of
from sdc.evaluation.reference import Reference, open_reference

__all__ = [
    "Agreement",
    "Evaluation",
    "LayerFidelity",
    "ModuleScorer",
    "Perplexity",
    "Reference",
    "Scorer",
    "compare_layers",
    "compare_logits",
    "evaluate",
    "evaluate_windows",
    "negative_log_likelihood",
    "open_reference",
    "windows_of",
]
