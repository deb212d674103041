"""Running a program takes the run-time library alone: neither the compiler's time nor its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What only compiling, evaluating and drawing need; each costs tens of megabytes.
HEAVY = ("tvm", "onnx", "onnxruntime", "onnxscript", "plotly", "scipy", "torch")

RUN = """
import sys
sys.argv = ["sdc", "run", sys.argv[1], "--prompt", "Once upon a time", "--max-new-tokens", "4", "--greedy"]
from sdc.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", [name for name in {heavy} if name in sys.modules])
"""

BOTH = """
import sys
import numpy as np
import sdc
program = sdc.load(sys.argv[1])
tokens = np.arange(5)
before = program.logits(tokens)
assert "tvm" not in sys.modules
import tvm
tvm.runtime.tensor(np.zeros(3))
assert np.array_equal(program.logits(tokens), before)
assert program.stats(tokens)["spikes_per_neuron"] > 0
program.decoder.reset()
assert np.array_equal(program.decoder.prefill(tokens), before[-1])
print("same")
"""


@pytest.fixture
def python(tiny_program):
    """Runs a script in a fresh interpreter with the program's path; gives its output."""

    def run(script: str) -> str:
        command = [sys.executable, "-c", script, str(tiny_program)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_run_imports_no_compiler(python):
    assert python(RUN.format(heavy=HEAVY)).rstrip().endswith("heavy: []")


def test_program_runs_before_and_after_the_compiler_is_imported(python):
    assert python(BOTH).rstrip() == "same"
