"""The harness's adapter on a task of our own: its accuracy is that of likelihoods worked out here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

import sdc
from sdc.cli import main
from sdc.errors import ConfigError
from sdc.evaluation import open_reference
from sdc.source import open_source

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from sdc.evaluation.lm_eval import LogitsLM, run_tasks
from sdc.runtime.sampling import Sampler

DATA = Path(__file__).parent / "tasks"
QUESTIONS = [json.loads(line) for line in (DATA / "common.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    definition = (DATA / "sdc_common.yaml").read_text().replace("DATA", str(DATA / "common.jsonl"))
    (folder / "sdc_common.yaml").write_text(definition)
    return folder


def by_hand(logits, codec, length: int, count: int) -> float:
    """Accuracy of the likeliest answer, each scored after its question."""
    right = 0
    for question in QUESTIONS[:count]:
        context = f"Question: {question['question']}\nAnswer:"
        scores = []
        for choice in question["choices"]:
            answer = codec.encode(f" {choice}")
            tokens = np.asarray(codec.encode(context) + answer)[-(length + 1) :]
            rows = log_softmax(logits(tokens[:-1])[-len(answer) :].astype(np.float64), 1)
            scores.append(rows[np.arange(len(answer)), answer].sum())
        right += int(np.argmax(scores)) == question["answer"]
    return right / count


def test_accuracy_is_that_of_the_likeliest_answers(tiny_program, tasks):
    program = sdc.load(tiny_program)
    reference = open_reference(open_source(program.manifest["source"]["path"]).onnx, 64)
    (score,) = run_tasks(program, reference, ["sdc_common"], tasks, limit=8)
    assert (score.task, score.metric, score.samples) == ("sdc_common", "acc", 8)
    assert score.program == by_hand(program.logits, program.tokenizer, 64, 8)
    assert score.reference == by_hand(reference.logits, program.tokenizer, 64, 8)


def test_a_greedy_continuation_is_known_as_one(tiny_program):
    program = sdc.load(tiny_program)
    model = LogitsLM(program.logits, program.tokenizer, 64)
    context = program.tokenizer.encode("Hello")
    likeliest = int(program.logits(context)[-1].argmax())
    score, greedy = model.score(context, [likeliest])
    assert greedy
    assert score == pytest.approx(log_softmax(program.logits(context)[-1].astype(np.float64))[likeliest])
    assert not model.score(context, [(likeliest + 1) % 96])[1]


def test_answers_end_before_the_stop_word(tiny_program):
    program = sdc.load(tiny_program)
    model = LogitsLM(program.logits, program.tokenizer, 64)
    whole = model.answer("Hello", {"max_gen_toks": 12})
    assert whole == program.tokenizer.decode(
        list(program.tokens(program.tokenizer.encode("Hello"), 12, Sampler()))
    )
    stop = whole[5]
    assert model.answer("Hello", {"max_gen_toks": 12, "until": [stop]}) == whole.split(stop)[0]


def test_a_text_without_context_needs_an_end_token(tiny_program):
    program = sdc.load(tiny_program)
    with pytest.raises(ConfigError, match="end token"):
        LogitsLM(program.logits, program.tokenizer, 64).rolling("Hello")


def test_the_command_prints_both_models(tiny_program, tasks, monkeypatch, capsys):
    arguments = ["eval", tiny_program, "--tasks", "sdc_common", "--task-path", tasks, "--limit", 4]

    def run(*more: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["sdc", *map(str, [*arguments, *more])])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr()

    (row,) = json.loads(run("--json")[0])["tasks"]
    assert (row["task"], row["samples"]) == ("sdc_common", 4)
    assert row["reference"] is not None
    assert "there is no task" in run("--tasks", "hellaswag")[1]
