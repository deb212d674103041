"""sdc: the spike-driven LLM compiler."""

__version__ = "0.1.0"
