"""A compiled program, loaded: what ``sdc.load`` returns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sdc.artefact import Artefact, open_artefact
from sdc.errors import ArtefactError, TargetError
from sdc.runtime.sampling import Sampler
from sdc.runtime.text import TextModel, find_tokenizer
from sdc.targets import find_target
from sdc.targets.base import Runner, StatelessRunner

__all__ = ["Generation", "Program", "load"]


@dataclass(frozen=True)
class Generation:
    """What was generated, and how fast.

    Attributes:
        text: The new text.
        tokens: The new token ids, the one that ended the generation included.
        prompt_tokens: Length of the prompt.
        prefill_seconds, decode_seconds: Wall-clock time of the prompt, and of all tokens after the first.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """New tokens per second, the first (which the prompt's pass gives) left out."""
        return (len(self.tokens) - 1) / self.decode_seconds if self.decode_seconds else 0.0


class Program:
    """A program that runs on its target.

    Args:
        artefact: The opened artefact.
    """

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        manifest = artefact.manifest
        target = find_target(manifest["target"])
        self._runner = target.load(artefact.path, manifest["build"])
        self.text: TextModel | None = find_tokenizer(artefact.path)

    @property
    def kind(self) -> str:
        """``decoder`` or ``stateless``."""
        return str(self.artefact.manifest["model"]["kind"])

    @property
    def runner(self) -> Runner:
        """The decoder's runner.

        Raises:
            TargetError: The program is no language model.
        """
        if self.kind != "decoder":
            raise TargetError("this program is no language model; call it with Program.call")
        return cast(Runner, self._runner)

    def call(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """Runs a stateless program on arrays by input name.

        Raises:
            TargetError: The program is a language model.
        """
        if self.kind == "decoder":
            raise TargetError("this program is a language model; use Program.generate or Program.logits")
        return cast(StatelessRunner, self._runner).call(inputs)

    def logits(self, tokens: Sequence[int] | NDArray) -> NDArray:
        """Logits [n, vocab] float32 of tokens [n], from an empty cache."""
        self.runner.reset()
        return self.runner.score(np.asarray(tokens, np.int64))

    def stats(self) -> dict[str, Any]:
        """Firing statistics by operation, measured on calibration text when compiling."""
        path = self.artefact.file("calibration.json")
        if path is None:
            raise ArtefactError(f"{self.artefact.path} holds no calibration statistics; compile it again")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def encode(self, prompt: str, *, chat: bool = False) -> list[int]:
        """Token ids of a prompt.

        Raises:
            ArtefactError: The artefact has no tokenizer.
        """
        text = self._text()
        return text.encode(text.chat(prompt) if chat else prompt)

    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stream: Callable[[str], None] | None = None,
        *,
        chat: bool = False,
    ) -> Generation:
        """Continues a prompt.

        Args:
            prompt: Text, or token ids.
            max_new_tokens: Tokens to generate at most; a stop token ends earlier.
            temperature: 0 takes the likeliest token each time.
            top_p: Samples among the likeliest tokens of this total probability.
            seed: Seed of the sampling.
            stream: Called with every new piece of text.
            chat: Put the prompt into the model's chat template.

        Raises:
            TargetError: The prompt and the new tokens do not fit into the cache.
            NumericsError: A logit is NaN or infinite.
        """
        ids = self.encode(prompt, chat=chat) if isinstance(prompt, str) else list(prompt)
        sampler = Sampler(temperature, top_p, seed)
        runner, tokens = self.runner, list[int]()
        runner.reset()
        start = time.perf_counter()
        logits = runner.prefill(ids)
        middle = time.perf_counter()
        stops = self.text.stops if self.text else frozenset[int]()
        pieces = _Pieces(self.text, stream)
        for _ in range(max_new_tokens):
            tokens.append(sampler(logits))
            if tokens[-1] in stops:
                break
            pieces.add(tokens[-1])
            if len(tokens) < max_new_tokens:
                logits = runner.decode(tokens[-1])
        end = time.perf_counter()
        return Generation(pieces.finish(), tuple(tokens), len(ids), middle - start, end - middle)

    def windows(self, text: str, count: int, window: int) -> Iterator[NDArray]:
        """The first ``count`` windows of ``window`` tokens of a text, without overlap."""
        ids = np.asarray(self._text().encode(text), np.int64)
        for i in range(min(count, len(ids) // window)):
            yield ids[i * window : (i + 1) * window]

    def _text(self) -> TextModel:
        if self.text is None:
            raise ArtefactError(
                f"{self.artefact.path} has no tokenizer: put tokenizer.json beside the model and compile again"
            )
        return self.text


class _Pieces:
    """Turns tokens into text as they come; a character that is not whole yet waits."""

    def __init__(self, text: TextModel | None, stream: Callable[[str], None] | None) -> None:
        self.text, self.stream = text, stream
        self.ids: list[int] = []
        self.shown = ""

    def add(self, token: int) -> None:
        self.ids.append(token)
        if self.text is None or self.stream is None:
            return
        whole = self.text.decode(self.ids)
        if not whole.endswith("\ufffd"):
            self.stream(whole[len(self.shown) :])
            self.shown = whole

    def finish(self) -> str:
        if self.text is None:
            return ""
        whole = self.text.decode(self.ids)
        if self.stream is not None and len(whole) > len(self.shown):
            self.stream(whole[len(self.shown) :])
        return whole


def load(path: str | Path) -> Program:
    """Opens a compiled program.

    Raises:
        ArtefactError: There is none, it is damaged, or it is of a newer format.
        TargetError: This machine cannot run it.
    """
    return Program(open_artefact(path))
