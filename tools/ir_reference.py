"""Writes docs/ir.md from the dialect's own descriptions.

python tools/ir_reference.py            write docs/ir.md
python tools/ir_reference.py --check    exit 1 if docs/ir.md is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from sdc.ir.ops import OPS

TARGET = Path(__file__).parent.parent / "docs" / "ir.md"

HEAD = """# The intermediate representation

sdc works on Relax, TVM's graph IR, with a dialect of first-class operations named `relax.sdc.*`. They are
registered from Python (`sdc/ir/ops/`, one file each): shape inference with symbolic lengths, a reference in
NumPy that defines the operation, and a naive legalisation that any target can fall back on. A module prints
with `R.sdc.<operation>(...)`; the text is for reading (`sdc opt`, `--dump-ir`), and tests build modules with
the builders of the same names in `sdc.ir.ops`.

## Modules

A decoder is one function, `forward(tokens [batch, seq] int64, position int64, caches ..., weights ...)
-> (logits [batch, seq, vocab], caches ...)`, which serves prefill (`seq` = n) and decode (`seq` = 1); `batch`
and `seq` are symbolic. Any other graph is one function `main` with the ONNX graph's own inputs. The function
attribute `num_input` counts the run-time inputs; every later parameter is a weight, whose name is the key of
a lazy `sdc.ir.params.Param`: a handle to memory-mapped values plus the transforms that passes appended.

A float cache is one tensor [batch, kv_heads, max_seq, head_dim] per key and per value. After the spike
rewrite it is two: counts (int8) and thresholds [batch, kv_heads, max_seq, 1] (float32).

## A dense layer as spikes

    h        = sdc.hadamard(x, signs, block)                       additions only
    s, theta = sdc.spike_encode(h, levels, group, clip_ratio, dead_zone, coding)
    acc      = sdc.spike_accumulate(s, weight, group)              int32, exact
    y        = sdc.readout(acc, theta, weight_scale, bias)         float32

For the same counts, every coding and every target gives the same int32 accumulators, bit for bit.

## Operations
"""


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in sorted(OPS):
        parts.append(f"\n### `sdc.{name}`\n\n{OPS[name].doc}\n")
    return "".join(parts)


def main(arguments: list[str]) -> int:
    """Writes or checks the page; returns the exit status."""
    if arguments == ["--check"]:
        return 0 if TARGET.exists() and TARGET.read_text() == render() else 1
    TARGET.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
