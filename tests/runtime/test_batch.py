"""Several prompts: each answer is that of its prompt alone, on runners that decode together and on others."""

from __future__ import annotations

import numpy as np
import pytest

import sdc
from sdc.errors import ConfigError
from sdc.runtime.batch import answer_together
from sdc.runtime.sampling import Sampler

PROMPTS = ["Hello", "A longer prompt than the first", "x", "Hello again"]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_are_those_of_each_prompt_alone(tiny_program, temperature) -> None:
    program = sdc.load(tiny_program)
    want = [program.generate(prompt, 12, temperature=temperature, seed=3) for prompt in PROMPTS]
    assert program.generate(PROMPTS, 12, temperature=temperature, seed=3) == want


def test_prompts_end_at_different_times(tiny_program) -> None:
    program = sdc.load(tiny_program)
    ids = [program.prompt(p) for p in ("x" * 60, "x", "x" * 30)]  # 5, 64 and 35 tokens fit
    answers = program.answers(ids, 40, Sampler)
    assert [len(tokens) for tokens in answers.tokens] == [5, 40, 35]
    assert answers.steps == 5 + 40 + 35 - 3
    for prompt, tokens in zip(ids, answers.tokens, strict=True):
        assert list(program.tokens(prompt, 40, Sampler())) == tokens


def test_a_runner_that_cannot_decode_together_answers_one_after_another() -> None:
    class Counting:
        """Logits whose likeliest token is the sum of the tokens so far."""

        def reset(self) -> None:
            self.total = 0

        def prefill(self, tokens):
            self.total += sum(tokens)
            return np.eye(100)[self.total % 100]

        def decode(self, token):
            return self.prefill([token])

    answers = answer_together(Counting(), [[1], [2, 3], [99]], 4, Sampler, frozenset({99}), 64)
    assert answers.tokens == [[1, 2, 4, 8], [5, 10, 20, 40], []]


def test_several_prompts_do_not_stream(tiny_program) -> None:
    with pytest.raises(ConfigError, match="cannot stream"):
        sdc.load(tiny_program).generate(PROMPTS, stream=True)
