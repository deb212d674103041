"""Compiled programs that run: text generation, logits, statistics."""

from sdc.runtime.program import Generation, Program, load
from sdc.runtime.text import TextModel, find_tokenizer

__all__ = ["Generation", "Program", "TextModel", "find_tokenizer", "load"]
