"""Running compiled programs: text in, text out."""

from sdc.runtime.program import Generation, Program
from sdc.runtime.text import TextCodec, copy_tokenizer

__all__ = ["Generation", "Program", "TextCodec", "copy_tokenizer"]
