"""The verbs of ``sdc`` and their options."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sdc import __version__
from sdc.cli import demo as demo_verb
from sdc.cli.options import (
    Artefact,
    Block,
    Budget,
    Calibration,
    Coding,
    CudaGraphs,
    Debug,
    DumpIr,
    EmitIsa,
    Group,
    Json,
    KvLevels,
    Levels,
    Lowering,
    Machine,
    MaxSeq,
    Mcpu,
    Model,
    PresetName,
    Quiet,
    RotateResidual,
    Seed,
    Shards,
    SignTries,
    Smoothing,
    Spikes,
    Static,
    Verify,
    Weights,
)
from sdc.errors import ConfigError

__all__ = ["app"]

# Verbs import what they need when they are called: `sdc --help` loads no compiler.

app = typer.Typer(
    name="sdc",
    help="Compiles ONNX language models into spike-driven programs, and runs them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"sdc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Compiles ONNX language models into spike-driven programs, and runs them."""


@app.command()
def compile(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The program's directory.")],
    target: Annotated[str, typer.Option(help="Where it shall run: cpu, cuda or neuro.")] = "cpu",
    preset: PresetName = None,
    weights: Weights = None,
    levels: Levels = None,
    group: Group = None,
    coding: Coding = None,
    spikes: Spikes = None,
    budget: Budget = None,
    static: Static = None,
    smoothing: Smoothing = None,
    rotate_residual: RotateResidual = None,
    block: Block = None,
    sign_tries: SignTries = None,
    kv_levels: KvLevels = None,
    calibration: Calibration = None,
    max_seq: MaxSeq = None,
    seed: Seed = 0,
    machine: Machine = None,
    emit_isa: EmitIsa = None,
    lowering: Lowering = None,
    mcpu: Mcpu = None,
    arch: Annotated[
        str | None, typer.Option(help="For cuda: architectures, commas between (default: sm_80,sm_89,sm_90).")
    ] = None,
    emit: Annotated[
        str | None,
        typer.Option(help="For cuda: also write kernels as cuda, ptx, cubin, sass, commas between."),
    ] = None,
    shards: Shards = None,
    cuda_graphs: CudaGraphs = None,
    dump_ir: DumpIr = None,
    verify: Verify = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a program that stands there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compile a model into a program."""
    from sdc.cli import verbs

    settings = {
        "target": target,
        "preset": preset,
        "weights": weights,
        "levels": levels,
        "group": group,
        "coding": coding,
        "spikes": spikes,
        "budget": budget,
        "static": static,
        "smoothing": smoothing,
        "rotate_residual": rotate_residual,
        "block": block,
        "sign_tries": sign_tries,
        "kv_levels": kv_levels,
        "calibration": calibration,
        "max_seq": max_seq,
        "seed": seed,
        "machine": machine,
        "emit_isa": emit_isa,
        "lowering": lowering,
        "mcpu": mcpu,
        "arch": arch,
        "emit": emit,
        "shards": shards,
        "cuda_graphs": cuda_graphs,
        "dump_ir": dump_ir,
        "verify": verify,
    }
    verbs.compile_model(model, out, settings, force=force, json=json, quiet=quiet)


@app.command()
def run(
    program: Artefact,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="What to answer; - reads it from standard input; again for more, answered together."
        ),
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="A prompt a line, answered together.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="A conversation: every line of standard input is a message.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 128,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Take the likeliest token (temperature 0).")
    ] = False,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Mass of the tokens to draw from.")] = 0.95,
    seed: Seed = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Do not put the prompt into the chat format.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer a prompt; the text streams to stdout."""
    from sdc.cli.run import answer_prompts, chat_with_program, read_prompts, run_program
    from sdc.runtime.sampling import Sampler

    if [chat, bool(prompt), prompts_file is not None].count(True) != 1:
        raise ConfigError("give one of --prompt, --prompts-file and --chat")
    if chat and (raw or json):
        raise ConfigError("--chat has neither --raw nor --json: it is a conversation in the chat format")
    sampler = partial(Sampler, 0.0 if greedy else temperature, top_p, seed)
    if chat:
        chat_with_program(program, sys.stdin, max_new_tokens, sampler)
        return
    prompts = read_prompts(prompts_file) if prompts_file else prompt or []
    prompts = [sys.stdin.read() if each == "-" else each for each in prompts]
    if len(prompts) > 1 or prompts_file:
        answer_prompts(program, prompts, max_new_tokens, sampler, raw=raw, json=json)
        return
    run_program(program, prompts[0], max_new_tokens, sampler(), raw=raw, json=json)


@app.command()
def eval(
    program: Artefact,
    text: Annotated[Path | None, typer.Option(help="Text to measure on (default: sdc's demo text).")] = None,
    windows: Annotated[int, typer.Option(help="Windows at most.")] = 8,
    window: Annotated[int, typer.Option(help="Tokens a window.")] = 512,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Also compare every operation with the float model's.")
    ] = False,
    tasks: Annotated[
        str, typer.Option(help="Instead of a text: tasks of lm-evaluation-harness, commas between.")
    ] = "",
    task_path: Annotated[Path | None, typer.Option(help="Where the tasks' YAML definitions lie.")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each task at most.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Perplexity and next tokens beside the original model's, and what fired."""
    if tasks:
        from sdc.cli.tasks import evaluate_tasks

        evaluate_tasks(program, tasks, task_path, limit, json=json)
        return
    from sdc.cli import verbs

    verbs.evaluate_program(program, text, windows, window, per_layer=per_layer, json=json, quiet=quiet)


@app.command()
def energy(
    program: Annotated[Path | None, typer.Argument(help="A compiled program.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Instead of a program: smollm2-135m, tinyllama-1.1b or llama2-7b.")
    ] = None,
    table: Annotated[
        str, typer.Option(help="Energies: horowitz-45nm, jouppi-7nm or sdllm-paper.")
    ] = "horowitz-45nm",
    tokens: Annotated[int, typer.Option(help="Length of a prompt; 0: one token is decoded.")] = 0,
    context: Annotated[int, typer.Option(help="Keys that a decoded token meets (--arch).")] = 512,
    accumulators: Annotated[
        str, typer.Option(help="Where spikes find their accumulators: memory or register.")
    ] = "memory",
    statistics: Annotated[Path | None, typer.Option(help="Spikes: what `sdc eval --json` printed.")] = None,
    text: Annotated[Path | None, typer.Option(help="Text to count spikes on.")] = None,
    windows: Annotated[int, typer.Option(help="Windows at most.")] = 2,
    window: Annotated[int, typer.Option(help="Tokens a window.")] = 256,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What a token costs: operations, bytes and joules, beside other formats."""
    from sdc.cli import energy as energy_verb

    if (program is None) == (arch is None):
        raise ConfigError("give either a compiled program or --arch, not both and not neither")
    if arch is not None:
        energy_verb.architecture_energy(arch, table, tokens, context, accumulators, json=json)
    elif program is not None:
        energy_verb.energy_of_program(
            program,
            table,
            tokens,
            accumulators,
            statistics,
            text,
            windows,
            window,
            json=json,
            quiet=quiet,
        )


@app.command()
def report(
    program: Artefact,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")],
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="Measurements: what `sdc eval --json` printed.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text to measure on (default: sdc's demo text).")] = None,
    windows: Annotated[
        int | None, typer.Option(help="Windows at most (default: 2; 1 on a simulated machine).")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens a window (default: 256; 16 on a simulated machine).")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a page about a program: spikes, accuracy, energy, speed."""
    from sdc.cli.report import report

    report(program, out, evaluation, text, windows, window, quiet=quiet)


@app.command()
def demo(
    model: Annotated[Path | None, typer.Option(help="An .onnx or .gguf file instead of SmolLM2.")] = None,
    prompt: Annotated[str, typer.Option(help="What to answer.")] = demo_verb.PROMPT,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 96,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep the program in this directory.")
    ] = None,
    windows: Annotated[int, typer.Option(help="Windows of held-out text.")] = 4,
    window: Annotated[int, typer.Option(help="Tokens a window.")] = 256,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compile SmolLM2-135M for this CPU, answer a prompt, measure."""
    demo_verb.demo(model, prompt, max_new_tokens, out, windows, window, json=json, quiet=quiet)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A compiled program, or an .onnx or .gguf file.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a program or a model holds."""
    from sdc.cli import inspect as inspect_verb

    inspect_verb.inspect(path, json=json)


@app.command()
def asm(
    source: Annotated[Path, typer.Argument(help="Assembly text (docs/isa.md).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The binary file.")],
    debug: Debug = False,
) -> None:
    """Assemble core programs of the neuromorphic instruction set."""
    from sdc.cli import isa

    isa.assemble(source, out)


@app.command()
def disasm(
    path: Annotated[Path, typer.Argument(help="A program compiled for neuro, or a binary file.")],
    core: Annotated[
        list[str] | None, typer.Option(help="X,Y, X,Y.SLOT or a number; again for more (default: all).")
    ] = None,
    data: Annotated[bool, typer.Option("--data", help="With memory contents, to assemble it again.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file instead of stdout.")] = None,
    debug: Debug = False,
) -> None:
    """Print core programs as assembly text."""
    from sdc.cli import isa

    isa.disassemble(path, core or [], out, data=data)


@app.command()
def opt(
    model: Model,
    passes: Annotated[str, typer.Option("--passes", "-p", help="Names of passes, commas between them.")] = "",
    preset: PresetName = None,
    weights: Weights = None,
    levels: Levels = None,
    group: Group = None,
    coding: Coding = None,
    spikes: Spikes = None,
    calibration: Calibration = None,
    max_seq: MaxSeq = None,
    seed: Seed = 0,
    dump_ir: DumpIr = None,
    verify: Verify = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print a model's module after chosen passes."""
    from sdc.cli import verbs

    settings: dict[str, Any] = {"levels": levels, "group": group, "coding": coding, "weights": weights}
    settings |= {"preset": preset, "spikes": spikes}
    settings |= {"calibration": calibration, "max_seq": max_seq, "seed": seed, "dump_ir": dump_ir}
    names = [n.strip() for n in passes.split(",") if n.strip()]
    verbs.print_module(model, names, {**settings, "verify": verify}, quiet=quiet)


@app.command()
def simulate(
    program: Artefact,
    prompt: Annotated[str, typer.Option(help="What to answer.")] = "Hello",
    tokens: Annotated[int, typer.Option(help="Tokens to make, greedily.")] = 1,
    machine: Annotated[
        str | None, typer.Option(help="A machine's name or description (default: the one compiled for).")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev here.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not put the prompt into the chat format.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time and energy of a neuromorphic program on its machine."""
    from sdc.cli import simulate as simulate_verb

    simulate_verb.simulate(program, prompt, tokens, machine, trace, raw=raw, json=json)


@app.command()
def doctor(json: Json = False, debug: Debug = False) -> None:
    """Say what this machine offers to compiled programs."""
    from sdc.cli import verbs

    verbs.doctor(json=json)
