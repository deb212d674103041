"""Compiles a model and streams an answer: ``python examples/generate.py MODEL PROMPT``."""

import sys

import sdc

program = sdc.compile(sys.argv[1], target="cpu", config={"max_seq": 64})
for piece in program.generate(sys.argv[2], max_new_tokens=16, stream=True):
    print(piece, end="", flush=True)
print()
