"""An adapter for EleutherAI's lm-evaluation-harness (the extra ``lm-eval``): task data must be local.

Task definitions are the harness's own YAML files, found below a directory that the user names; nothing is
fetched by sdc, and a task whose data set is a file needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from numpy.typing import NDArray
from scipy.special import log_softmax

from sdc.errors import ConfigError
from sdc.evaluation.reference import Reference
from sdc.runtime.program import Program
from sdc.runtime.text import TextCodec

__all__ = ["LogitsLM", "TaskScore", "run_tasks"]

LONGEST_ANSWER = 256  # tokens of a generated answer where a task does not say

Logits = Callable[[NDArray], NDArray]


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    Attributes:
        program: Of the compiled program.
        reference: Of the original model; None where it was not run.
        error: Standard error of the program's, as the harness estimates it; None where it does not.
        samples: Questions that were asked.
    """

    task: str
    metric: str
    program: float
    reference: float | None
    error: float | None
    samples: int


def run_tasks(
    program: Program,
    reference: Reference | None,
    tasks: Sequence[str],
    folder: Path,
    limit: int | None = None,
) -> list[TaskScore]:
    """Scores of tasks that are defined below ``folder``.

    Args:
        limit: Questions of each task at most.

    Raises:
        ConfigError: The program has no tokenizer, or there is no such task.
    """
    if program.tokenizer is None:
        raise ConfigError(f"{program.artefact.path} has no tokenizer, so it cannot answer tasks")
    manager = TaskManager(include_path=str(folder.resolve()), include_defaults=False)
    unknown = sorted(set(tasks) - set(manager.all_tasks))
    if unknown:
        known = ", ".join(sorted(manager.all_tasks)) or "none"
        raise ConfigError(f"there is no task {unknown[0]} below {folder}; tasks are: {known}")
    length = int(program.manifest["model"]["max_seq"])
    found = _scores(LogitsLM(program.logits, program.tokenizer, length), tasks, manager, limit)
    original = None
    if reference is not None:
        original = _scores(LogitsLM(reference.logits, program.tokenizer, length), tasks, manager, limit)
    return _rows(found, original)


class LogitsLM(TemplateLM):
    """The harness's face of anything that maps tokens [n] to logits [n, vocab].

    Args:
        logits: From an empty cache each time.
        codec: Tokens and texts.
        length: Tokens that the model takes at most; of longer ones, the last are taken.
    """

    def __init__(self, logits: Logits, codec: TextCodec, length: int) -> None:
        super().__init__()
        self.logits, self.codec, self.length = logits, codec, length

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, and that stands before one without context.

        Raises:
            ConfigError: The tokenizer has none.
        """
        if not self.codec.end_tokens:
            raise ConfigError("the tokenizer has no end token, so a text without context cannot be scored")
        return min(self.codec.end_tokens)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_options: Any) -> list[int]:
        """Token ids; special tokens only on demand."""
        return self.codec.encode(string, special=bool(add_special_tokens))

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_options: Any
    ) -> list[tuple[float, bool]]:
        return [self.score(context, continuation) for _, context, continuation in requests]

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Log-likelihood of a continuation, and whether it is the greedy one."""
        tokens = np.asarray([*context, *continuation], np.int64)[-(self.length + 1) :]
        wanted = tokens[len(tokens) - len(continuation) :]
        rows = self.logits(tokens[:-1])[-len(wanted) :].astype(np.float64)
        chosen = log_softmax(rows, axis=-1)[np.arange(len(wanted)), wanted]
        return float(chosen.sum()), bool((rows.argmax(-1) == wanted).all())

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows that the model can take."""
        return [self.rolling(request.args[0]) for request in requests]

    def rolling(self, text: str) -> float:
        """Log-likelihood of one text."""
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.length,
            context_len=1,
        )
        return sum(self.score(*pair)[0] for pair in map(make_disjoint_window, windows))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to one of the stop words of each request."""
        return [self.answer(request.args[0], dict(request.args[1])) for request in requests]

    def answer(self, prompt: str, options: dict[str, Any]) -> str:
        """The greedy answer to one prompt."""
        stops = options.get("until") or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        longest = int(options.get("max_gen_toks", LONGEST_ANSWER))
        tokens = self.tok_encode(prompt)[-max(1, self.length - longest) :]
        made: list[int] = []
        while len(made) < longest and len(tokens) + len(made) < self.length:
            token = int(self.logits(np.asarray([*tokens, *made], np.int64))[-1].argmax())
            if token in self.codec.end_tokens:
                break
            made.append(token)
            if any(stop in self.codec.decode(made) for stop in stops):
                break
        text = self.codec.decode(made)
        return min((text.split(stop)[0] for stop in stops), key=len, default=text)


def _scores(model: LogitsLM, tasks: Sequence[str], manager: TaskManager, limit: int | None) -> dict[str, Any]:
    found = simple_evaluate(
        model=model,
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        bootstrap_iters=0,
        log_samples=False,
    )
    return dict(found)


def _rows(found: dict[str, Any], original: dict[str, Any] | None) -> list[TaskScore]:
    rows = []
    for task, values in found["results"].items():
        samples = int(found["n-samples"][task]["effective"])
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr"):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            its = None if original is None else float(original["results"][task][key])
            known = isinstance(error, int | float)
            rows.append(TaskScore(task, metric, float(value), its, float(error) if known else None, samples))
    return rows
