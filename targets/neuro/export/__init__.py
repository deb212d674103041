"""Mapped programs for other people's tools: SANA-FE simulates them again, NIR carries them elsewhere."""
