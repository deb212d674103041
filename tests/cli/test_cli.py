"""Every verb on a tiny real export, in this process."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_source import MODEL, tiny_source, tiny_tokenizer

import sdc
from sdc.artefact import MANIFEST
from sdc.artefact.writer import canonical, seal
from sdc.errors import TargetError
from sdc.evaluation import open_reference
from sdc.runtime.sampling import Sampler
from sdc.targets.cuda.device import device_names

TEXT = "The quick brown fox jumps over the lazy dog, and back again.\n" * 4


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_version(command):
    assert command("--version") == (0, f"sdc {sdc.__version__}\n", "")


def test_compile_prints_what_it_made(command, one_level, tmp_path):
    source, out = tiny_source(tmp_path), tmp_path / "out.sdc"
    arguments = (
        "compile",
        source,
        "-o",
        out,
        "--max-seq",
        32,
        "--levels",
        7,
        "--coding",
        "bitwise",
        "--json",
    )
    status, printed, _ = command(*arguments, "--verify", "--dump-ir", tmp_path / "ir")
    facts = json.loads(printed)
    assert (status, facts["dense_float_products"], facts["operations"]) == (0, 0, 11)
    assert set(facts["seconds"]) == {"import", "passes", "build", "write"}
    assert (tmp_path / "ir" / "00-lifted.txt").is_file()
    assert {op["levels"] for op in json.loads((out / MANIFEST).read_text())["ops"]} == {7, 31}
    status, _, complaint = command(*arguments)
    assert (status, "--force" in complaint) == (2, True)


def test_the_same_compile_has_the_same_bytes(command, one_level, tmp_path):
    source = tiny_source(tmp_path)
    for name in ("one.sdc", "two.sdc"):
        assert command("compile", source, "-o", tmp_path / name, "--max-seq", 64, "-q")[0] == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one.sdc", "two.sdc"))
    assert one == two


def test_run_streams_what_the_json_says(command, tiny_program):
    arguments = ("run", tiny_program, "--prompt", "Hello", "--max-new-tokens", 9, "--greedy")
    status, streamed, _ = command(*arguments)
    made = json.loads(command(*arguments, "--json")[1])
    assert status == 0
    assert streamed == made["text"] + "\n"
    assert (len(made["tokens"]), made["prompt_tokens"]) == (9, 5)
    assert made["prefill_tokens_per_second"] > 0
    assert made["decode_tokens_per_second"] > 0


def test_a_seed_repeats_a_draw(command, tiny_program):
    arguments = ("run", tiny_program, "--prompt", "Hello", "--max-new-tokens", 20, "--temperature", 2)
    assert command(*arguments, "--seed", 4)[1] == command(*arguments, "--seed", 4)[1]
    assert command(*arguments, "--seed", 4)[1] != command(*arguments, "--seed", 5)[1]


def test_several_prompts_are_answered_as_each_one_alone(command, tiny_program, tmp_path):
    options = ("--max-new-tokens", 5, "--greedy", "--json")
    prompts = ["Hello", "Another", "x"]
    want = [json.loads(command("run", tiny_program, "--prompt", p, *options)[1])["text"] for p in prompts]
    given = [argument for p in prompts for argument in ("--prompt", p)]
    made = json.loads(command("run", tiny_program, *given, *options)[1])
    assert [answer["text"] for answer in made["answers"]] == want
    assert made["decode_tokens_per_second"] > 0
    (tmp_path / "prompts.txt").write_text("\n\n".join(prompts))
    again = command("run", tiny_program, "--prompts-file", tmp_path / "prompts.txt", *options[:3])[1]
    assert again == "".join(f"> {p}\n{text}\n\n" for p, text in zip(prompts, want, strict=True))
    (tmp_path / "none.txt").write_text("\n")
    status, _, complaint = command("run", tiny_program, "--prompts-file", tmp_path / "none.txt")
    assert (status, "holds no prompt" in complaint) == (2, True)


def test_a_conversation_keeps_its_tokens_in_the_cache(command, tiny_program, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nHello again\n"))
    status, out, _ = command("run", tiny_program, "--chat", "--max-new-tokens", 4, "--greedy")
    counts = re.findall(r"\[(\d+) tokens, (\d+) of them in the cache\]", out)
    assert (status, len(counts)) == (0, 2)
    (first, none), (second, kept) = [tuple(map(int, pair)) for pair in counts]
    assert none == 0
    assert first <= kept < second
    status, _, complaint = command("run", tiny_program)
    assert status == 2
    assert "one of --prompt, --prompts-file and --chat" in complaint
    status, _, complaint = command("run", tiny_program, "--chat", "--json")
    assert status == 2
    assert "--chat has neither --raw nor --json" in complaint


def test_an_answer_ends_where_the_cache_is_full(command, tiny_program):
    made = json.loads(command("run", tiny_program, "--prompt", "x" * 60, "--max-new-tokens", 50, "--json")[1])
    assert len(made["tokens"]) == 5


def test_greedy_decode_equals_recomputing_the_prefix(tiny_program):
    program = sdc.load(tiny_program)
    ids = program.prompt("Hello")
    made = list(program.answer(ids, 24, Sampler()).tokens)
    for number, token in enumerate(made):
        assert int(program.logits([*ids, *made[:number]])[-1].argmax()) == token


def test_generate_streams_the_same_text(tiny_program):
    program = sdc.load(tiny_program)
    assert "".join(program.generate("Hello", 12, stream=True)) == program.generate("Hello", 12)


def test_eval_sets_both_models_side_by_side(command, tiny_program, text):
    status, printed, _ = command(
        "eval", tiny_program, "--text", text, "--windows", 3, "--window", 60, "--json"
    )
    found = json.loads(printed)
    assert status == 0
    assert (found["windows"], found["tokens"], found["reference"]) == (3, 180, "onnxruntime")
    assert 0.9 < found["ratio"] < 1.2
    assert found["ratio"] == pytest.approx(found["perplexity_spiking"] / found["perplexity_reference"])
    assert 0 < found["zero_fraction"] < 0.5
    slots = sum(op["neurons"] * op["time_steps"] for op in found["ops"])
    assert found["firing_rate"] == pytest.approx(sum(op["spikes"] for op in found["ops"]) / slots)
    assert found["synops_per_token"] == pytest.approx(sum(op["synops_per_token"] for op in found["ops"]))


def test_eval_without_the_original_says_so(command, tiny_program, text, tmp_path):
    moved = shutil.copytree(tiny_program, tmp_path / "moved.sdc")
    manifest = json.loads((moved / MANIFEST).read_text())
    manifest["source"]["path"] = str(tmp_path / "gone.onnx")
    (moved / MANIFEST).write_bytes(canonical(seal(manifest)))
    status, printed, remark = command("eval", moved, "--text", text, "--window", 30, "--windows", 1, "--json")
    assert (status, json.loads(printed)["ratio"]) == (0, None)
    assert "gone.onnx is gone" in remark


def test_stats_count_what_the_program_fires(tiny_program):
    program = sdc.load(tiny_program)
    tokens = np.random.default_rng(0).integers(0, 96, 30)
    whole = program.stats(tokens)
    assert whole["tokens"] == 30
    assert whole["spikes_per_neuron"] <= 15
    assert sum(op["spikes"] for op in whole["ops"]) == pytest.approx(
        whole["spikes_per_neuron"] * sum(op["neurons"] for op in whole["ops"])
    )
    ops = {op["name"]: op for op in program.manifest["ops"]}
    for row in whole["ops"]:
        if ops[row["name"]]["kind"] == "linear":
            assert row["neurons"] == 30 * ops[row["name"]]["inputs"]
            synops = row["spikes"] * ops[row["name"]]["outputs"]
            assert row["synops_per_token"] * 30 == pytest.approx(synops, rel=1e-12)


def test_both_references_agree(tiny_program):
    from sdc.evaluation.reference import _Lifted

    tokens = np.random.default_rng(0).integers(0, 96, 12)
    np.testing.assert_allclose(
        open_reference(MODEL, 32).logits(tokens), _Lifted(MODEL, 32).logits(tokens), atol=1e-4
    )


@pytest.mark.parametrize(
    "name", ["llama_dynamo_past_op18", "llama_dynamo_masked_op23", "llama_dynamo_op23_fp16"]
)
def test_the_reference_feeds_every_kind_of_export(name):
    tokens = np.random.default_rng(0).integers(0, 96, 12)
    logits = open_reference(MODEL.with_name(f"{name}.onnx"), 32).logits(tokens)
    assert logits.shape == (12, 96)
    assert np.isfinite(logits).all()


def test_inspect_shows_programs_and_models(command, tiny_program):
    found = json.loads(command("inspect", tiny_program, "--json")[1])
    wanted = {"format_version", "target", "config", "ops", "dense_float_products", "weight_bytes"}
    assert wanted <= set(found)
    keys = {"name", "kind", "levels", "coding", "group", "weight_bits", "synapses"}
    assert all(keys <= set(op) for op in found["ops"])
    assert json.loads(command("inspect", MODEL, "--json")[1])["layers"] == 2
    assert "node_" in command("inspect", tiny_program)[1]


def test_opt_prints_the_module_after_the_passes(command, tmp_path):
    source = tiny_source(tmp_path)
    status, before, _ = command("opt", source, "--max-seq", 32)
    after = command("opt", source, "--max-seq", 32, "-p", "canonicalise,merge-parallel-linears", "--verify")[
        1
    ]
    assert status == 0
    assert before.count("R.sdc.linear") == 15
    assert after.count("R.sdc.linear") == 9
    status, _, complaint = command("opt", source, "-p", "smoth")
    assert (status, "did you mean smooth" in complaint) == (2, True)


def test_doctor(command):
    found = json.loads(command("doctor", "--json")[1])
    assert found["threads"] >= 1
    assert found["cuda_devices"] == (", ".join(device_names()) or "none")
    assert {"cuda_compiler", "cuda_disassembler", "nccl"} <= set(found)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_damaged_programs_are_refused(command, tiny_program, tmp_path):
    for number, name in enumerate(p.name for p in sorted(tiny_program.iterdir())):
        copy = shutil.copytree(tiny_program, tmp_path / f"{number}.sdc")
        flip(copy / name)
        status, out, complaint = command("run", copy, "--prompt", "x")
        assert (status, out) == (2, "")
        assert name in complaint
        assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compile", "missing.onnx", "-o", "o.sdc"), "no such file"),
        (("compile", "cut.onnx", "-o", "o.sdc"), "cut.onnx"),
        (("compile", "notes.txt", "-o", "o.sdc"), "must end in .onnx or .gguf"),
        (("compile", "bad.gguf", "-o", "o.sdc"), "bad.gguf"),
        (("compile", "tiny.onnx", "-o", "o.sdc", "--levels", "0"), "levels = 0"),
        (("compile", "tiny.onnx", "-o", "o.sdc", "--calibration", "none.txt"), "none.txt"),
        (("compile", "tiny.onnx", "-o", "o.sdc", "--calibration", "notes.txt"), "tokens"),
        (("run", "nothing.sdc", "--prompt", "x"), "no compiled program"),
        (("eval", "nothing.sdc"), "no compiled program"),
        (("inspect", "nothing.sdc"), "no such file"),
    ],
)
def test_bad_input_is_one_paragraph_and_leaves_nothing(command, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    tiny_source(tmp_path)
    Path("notes.txt").write_text("few")
    Path("bad.gguf").write_bytes(b"GGUF\x03\0\0\0")
    Path("cut.onnx").write_bytes(Path("tiny.onnx").read_bytes()[:5000])
    before = sorted(p.name for p in tmp_path.iterdir())
    status, out, complaint = command(*arguments)
    assert (status, out) == (2, "")
    assert words in complaint
    assert "Traceback" not in complaint
    assert complaint.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_program_without_tokenizer_takes_token_ids(one_level, tmp_path, command):
    source = tiny_source(tmp_path, tokenizer=False)
    program = sdc.compile(source, config={"max_seq": 64})
    assert "random tokens" in program.manifest["notes"][0]
    assert len(list(program.tokens([1, 2, 3], 5, Sampler()))) == 5
    status, _, complaint = command("run", program.artefact.path, "--prompt", "x")
    assert (status, "tokenizer.json" in complaint) == (2, True)


def test_a_graph_without_tokens_compiles_and_runs(one_level, tmp_path):
    program = sdc.compile(MODEL.with_name("mlp_dynamo_op20.onnx"), out=tmp_path / "mlp.sdc")
    (name, dtype, shape), *_ = program.manifest["program"]["signature"]["inputs"]
    assert program.manifest["dense_float_products"] == 0
    with pytest.raises(TargetError, match="no language model"):
        program.logits([1])
    with pytest.raises(TargetError, match=name):
        program.call({})
    assert (dtype, shape) == ("float32", [-1, 12])
    assert program.call({name: np.zeros((3, 12), np.float32)})["output_0"].shape == (3, 5)


def test_demo_on_a_model_of_ones_own(command, one_level, tmp_path):
    arguments = (
        "demo",
        "--model",
        tiny_source(tmp_path),
        "--max-new-tokens",
        5,
        "--window",
        64,
        "--windows",
        2,
    )
    found = json.loads(command(*arguments, "--json")[1])
    assert (found["windows"], found["dense_float_products"]) == (2, 0)
    status, printed, _ = command(*arguments)
    assert status == 0
    for row in ("perplexity, spiking program", "spikes per neuron", "synops per token", "weight bytes"):
        assert row in printed


def test_tiny_tokenizer_has_the_models_vocabulary():
    assert tiny_tokenizer().get_vocab_size() == 96
