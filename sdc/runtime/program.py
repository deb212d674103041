"""A compiled program that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from sdc.artefact import Artefact, open_artefact
from sdc.errors import ConfigError, TargetError
from sdc.runtime.batch import Answers, answer_together
from sdc.runtime.sampling import Sampler
from sdc.runtime.text import Message, TextCodec
from sdc.targets import find_target
from sdc.targets.base import Runner, StatelessRunner
from sdc.targets.firing import Firing

__all__ = ["Generation", "Program", "score_with_firing"]


@dataclass(frozen=True)
class Generation:
    """What a prompt led to.

    Attributes:
        text: The answer; "" where the program has no tokenizer.
        tokens: Its token ids, the end token left out.
        prompt_tokens: Tokens of the prompt.
        prefill_seconds: Time for the prompt.
        decode_seconds: Time for all steps after it.
        steps: How many those were.
        reused_tokens: Tokens of the prompt that the cache held already; they took no time.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float
    steps: int
    reused_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values, rates in tokens per second (None where nothing was decoded)."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
            "prefill_tokens_per_second": (self.prompt_tokens - self.reused_tokens) / self.prefill_seconds,
            "decode_tokens_per_second": self.steps / self.decode_seconds if self.steps else None,
        }


class Program:
    """An opened artefact. One conversation at a time; not safe across threads.

    Args:
        artefact: A checked artefact.

    Raises:
        TargetError: This machine cannot run it.
    """

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        self.tokenizer = TextCodec.find(artefact.path)
        target = find_target(str(artefact.manifest["target"]))
        self.runner: Runner | StatelessRunner = target.load(artefact.path, artefact.manifest["program"])
        self._kept: object = None

    @staticmethod
    def load(path: str | Path) -> Program:
        """Opens and checks an artefact. Raises as :func:`sdc.artefact.open_artefact` and the constructor."""
        return Program(open_artefact(path))

    def keep(self, thing: object) -> None:
        """Keeps an object, such as a temporary directory, alive for as long as the program."""
        self._kept = thing

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Everything that was written about the program when it was compiled."""
        return self.artefact.manifest

    @property
    def decoder(self) -> Runner:
        """The runner of a language model.

        Raises:
            TargetError: The program is a graph without state.
        """
        if self.manifest["model"]["kind"] != "decoder":
            raise TargetError(f"{self.artefact.path} is no language model; use Program.call")
        return self.runner  # type: ignore[return-value]  # its kind says so

    def call(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Runs a program without state: arrays by name to arrays by name.

        Raises:
            TargetError: The program is a language model, or an input is missing or of another dtype.
        """
        if self.manifest["model"]["kind"] == "decoder":
            raise TargetError(f"{self.artefact.path} is a language model; use generate or logits")
        return self.runner.call(inputs)  # type: ignore[union-attr]  # its kind says so

    def logits(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Logits [n, vocab] float32 of tokens [n], from an empty cache."""
        self.decoder.reset()
        return self.decoder.score(tokens)

    def stats(self, tokens: NDArray | Sequence[int]) -> dict[str, Any]:
        """Spikes, zero fraction and synops, in all and per operation, of token ids [n] from an empty cache.

        Raises:
            TargetError: The program's target cannot count spikes.
        """
        self.decoder.reset()
        _, firing = score_with_firing(self.decoder, tokens)
        return firing.summary(self.manifest["ops"])

    def prompt(self, prompt: str | Sequence[int], *, chat: bool = True) -> list[int]:
        """Token ids of a prompt, in the model's chat format where it has one and ``chat`` is set.

        Raises:
            ConfigError: The prompt is text, and the program has no tokenizer; or it is empty.
        """
        if isinstance(prompt, str):
            codec = self._codec()
            ids = codec.chat(prompt) if chat else codec.encode(prompt, special=True)
        else:
            ids = [int(t) for t in prompt]
        if not ids:
            raise ConfigError("the prompt is empty; give at least one token")
        return ids

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to where the model's next message begins.

        Raises:
            ConfigError: The program has no tokenizer.
        """
        return self._codec().chat(messages)

    def _codec(self) -> TextCodec:
        if self.tokenizer is None:
            raise ConfigError(
                f"{self.artefact.path} has no tokenizer: give token ids, or put tokenizer.json beside the "
                "model and compile again"
            )
        return self.tokenizer

    def tokens(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampler: Sampler,
        times: list[float] | None = None,
    ) -> Iterator[int]:
        """New token ids, one by one; ends at an end token or where the cache is full.

        What the cache holds of the prompt's beginning, from the prompts and answers before, is not run again.

        Args:
            times: Receives the seconds for the prompt, then for each step after it.
        """
        runner = self.decoder
        ends = self.tokenizer.end_tokens if self.tokenizer else frozenset()
        room = int(self.manifest["model"]["max_seq"]) - len(prompt) + 1  # the last token needs no place
        wanted = min(max_new_tokens, room)
        token = sampler(_timed(times, _begin(runner), prompt))
        # A target may choose the token itself, where the logits lie.
        choose = getattr(runner, "following", None)
        following = choose(token, sampler, wanted - 1, ends) if choose is not None and wanted > 1 else None
        for number in range(wanted):
            if token in ends:
                return
            yield token
            if number + 1 == wanted:
                return
            if following is not None:
                token = _timed(times, next, following)
            else:
                token = sampler(_timed(times, runner.decode, token))

    @overload
    def generate(
        self,
        prompt: list[str],
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int | None = ...,
    ) -> list[str]: ...

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int | None = ...,
        stream: bool = ...,
    ) -> str | Iterator[str]: ...

    def generate(
        self,
        prompt: str | Sequence[int] | list[str],
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = 0,
        stream: bool = False,
    ) -> str | Iterator[str] | list[str]:
        """The answer to a prompt, or to each of several: those decode together where the target can.

        Args:
            prompt: Text, put into the model's chat format where it has one; or token ids, taken as they are.
                A list of texts gives a list of answers, each that of its prompt alone.
            max_new_tokens: Most tokens of the answer.
            temperature: 0 takes the likeliest token.
            top_p: Mass of the tokens to draw from.
            seed: Of the draws.
            stream: Give an iterator over pieces of text instead of the whole; for one prompt.

        Raises:
            ConfigError: The program has no tokenizer, or a setting is out of range.
            TargetError: The prompt does not fit into the cache.
        """
        if isinstance(prompt, list) and any(isinstance(each, str) for each in prompt):
            if stream:
                raise ConfigError("several prompts cannot stream; leave stream out, or give one at a time")
            several = [self.prompt(cast("str", each)) for each in prompt]
            answers = self.answers(several, max_new_tokens, lambda: Sampler(temperature, top_p, seed))
            return [self.text(tokens) for tokens in answers.tokens]
        ids, sampler = self.prompt(cast("str | Sequence[int]", prompt)), Sampler(temperature, top_p, seed)
        pieces = self._pieces(self.tokens(ids, max_new_tokens, sampler))
        return pieces if stream else "".join(pieces)

    def answer(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampler: Sampler,
        listen: Callable[[str], None] = lambda _piece: None,
    ) -> Generation:
        """Generates with the clock running; ``listen`` is called with each piece of text."""
        made: list[int] = []
        times: list[float] = []

        def recorded() -> Iterator[int]:
            for token in self.tokens(prompt, max_new_tokens, sampler, times):
                made.append(token)
                yield token

        text = ""
        for piece in self._pieces(recorded()):
            text += piece
            listen(piece)
        reused = getattr(self.decoder, "reused", 0)
        return Generation(text, tuple(made), len(prompt), times[0], sum(times[1:]), len(times) - 1, reused)

    def answers(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampler: Callable[[], Sampler]
    ) -> Answers:
        """Token ids of the answers to several prompts; ``sampler`` makes one for each prompt."""
        ends = self.tokenizer.end_tokens if self.tokenizer else frozenset()
        max_seq = int(self.manifest["model"]["max_seq"])
        return answer_together(self.decoder, prompts, max_new_tokens, sampler, ends, max_seq)

    def text(self, tokens: Sequence[int]) -> str:
        """Text of token ids; the ids themselves where there is no tokenizer."""
        return "".join(self._pieces(iter(tokens)))

    def _pieces(self, tokens: Iterator[int]) -> Iterator[str]:
        """Text as it comes; token ids where there is no tokenizer."""
        if self.tokenizer is not None:
            return self.tokenizer.stream(tokens)
        return (f"{token} " for token in tokens)


def score_with_firing(runner: Runner, tokens: NDArray | Sequence[int]) -> tuple[NDArray, Firing]:
    """Logits [n, vocab], and the firing that made them.

    Raises:
        TargetError: The runner cannot count.
    """
    count = getattr(runner, "score_with_firing", None)
    if count is None:
        raise TargetError("the program's target cannot count spikes")
    logits, firing = count(np.asarray(tokens, np.int64))
    return logits, firing


def _begin(runner: Runner) -> Callable[[Sequence[int]], NDArray]:
    """What takes a prompt: after what the cache holds of it, where the runner can."""
    resume: Callable[[Sequence[int]], NDArray] | None = getattr(runner, "resume", None)
    if resume is not None:
        return resume
    runner.reset()
    return runner.prefill


def _timed(times: list[float] | None, function: Callable[[Any], Any], argument: Any) -> Any:
    began = time.perf_counter()
    result = function(argument)
    if times is not None:
        times.append(time.perf_counter() - began)
    return result
