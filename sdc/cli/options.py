"""Options that several verbs share, or that settings of a compile come by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdc.presets import PRESETS

__all__ = [
    "Artefact",
    "Block",
    "Budget",
    "Calibration",
    "Coding",
    "CudaGraphs",
    "Debug",
    "DumpIr",
    "EmitIsa",
    "Group",
    "Json",
    "KvLevels",
    "Levels",
    "Lowering",
    "Machine",
    "MaxSeq",
    "Mcpu",
    "Model",
    "PresetName",
    "Quiet",
    "RotateResidual",
    "Seed",
    "Shards",
    "SignTries",
    "Smoothing",
    "Spikes",
    "Static",
    "Verify",
    "Weights",
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the traceback.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PresetName = Annotated[
    str | None, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")
]
Weights = Annotated[str | None, typer.Option(help="Weights: int8 (default), int4, int3 or int2.")]
Levels = Annotated[int | None, typer.Option(help="Largest spike count D of a linear's inputs (default: 15).")]
Group = Annotated[
    int | None, typer.Option(help="Channels that share a threshold; 0: all of a token's (default: 64).")
]
Coding = Annotated[
    str | None, typer.Option(help="How counts become trains: ternary (default), bitwise or binary.")
]
Spikes = Annotated[
    float | None, typer.Option(help="Wanted mean count of a linear's inputs, by thresholds with a floor.")
]
Smoothing = Annotated[
    str | None, typer.Option(help="Exponent of the smoothing scales (default: 0.5), or search.")
]
RotateResidual = Annotated[
    bool | None, typer.Option("--rotate-residual", help="Rotate the whole residual stream, in the weights.")
]
Block = Annotated[int | None, typer.Option(help="Largest Hadamard block; 0: no rotation (default: 64).")]
SignTries = Annotated[
    int | None, typer.Option(help="Random signs of the transform to try; the best is taken (default: 1).")
]
KvLevels = Annotated[
    int | None, typer.Option(help="Levels of cached keys and values: 127 (default, 8 bits), 7 (4 bits).")
]
Static = Annotated[
    bool | None, typer.Option("--static", help="Thresholds known before a run; needs --spikes.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="ppl=1.05x, spikes=0.5x or synops=0.5x: choose thresholds an operation, by measured sensitivity."
    ),
]
Calibration = Annotated[Path | None, typer.Option(help="Text to calibrate on (default: sdc's demo text).")]
MaxSeq = Annotated[int | None, typer.Option(help="Tokens that the cache holds (default: 2048 at most).")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
DumpIr = Annotated[Path | None, typer.Option(help="Directory for the module after every pass.")]
Verify = Annotated[bool, typer.Option("--verify", help="Check what every pass promises.")]
Machine = Annotated[
    str | None,
    typer.Option(help="For neuro: a shipped machine, or a file (default: loihi2-like)."),
]
EmitIsa = Annotated[Path | None, typer.Option(help="For neuro: directory for every core's program as text.")]
Lowering = Annotated[
    str | None,
    typer.Option(help="For cpu: how linears decode, event, collapsed or auto (default): the faster one."),
]
Mcpu = Annotated[
    str | None,
    typer.Option(help="For cpu: one processor, native or a level such as x86-64-v3 (default: all levels)."),
]
Shards = Annotated[
    int | None,
    typer.Option(help="For cuda: GPUs that share the program; divides its heads (default: 1)."),
]
CudaGraphs = Annotated[
    bool | None,
    typer.Option("--cuda-graphs", help="For cuda: a greedy step is one CUDA graph (not yet run)."),
]
Artefact = Annotated[Path, typer.Argument(help="A compiled program.")]
Model = Annotated[Path, typer.Argument(help="An .onnx or .gguf file.")]
