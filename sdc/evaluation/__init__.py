"""Measuring accuracy and spikes."""

from sdc.evaluation.firing import FiringStatistics, measure_firing
from sdc.evaluation.perplexity import Perplexity, onnx_scorer, perplexity

__all__ = ["FiringStatistics", "Perplexity", "measure_firing", "onnx_scorer", "perplexity"]
