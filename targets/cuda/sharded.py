"""A program that several workers share: its weights on disk, and the runner that leads the workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdc.ir.params import Param
from sdc.targets.base import Chooser, Progress
from sdc.targets.cuda.cuts import LinearShare, for_worker, is_cut
from sdc.targets.cuda.runner import CudaRunner, settings_of
from sdc.targets.cuda.workers import Workers
from sdc.targets.firing import Firing, OpFiring
from sdc.targets.fused.runner import Memory, continued
from sdc.targets.fused.signature import Signature
from sdc.targets.fused.together import Together
from sdc.targets.weights import map_weights, write_weights

__all__ = ["ShardedRunner", "map_shards", "write_shards"]

T = TypeVar("T")


def write_shards(out: Path, params: Mapping[str, Param], workers: int, progress: Progress) -> list[Path]:
    """Writes ``shard.N.safetensors`` for each worker: its shares of the weights that are cut.

    Args:
        params: One worker's, packed for the kernels; those that all workers hold alike are left out.
    """
    cut = {name: param for name, param in params.items() if is_cut(param)}
    paths = [out / f"shard.{worker}.safetensors" for worker in range(workers)]
    for worker, path in enumerate(paths):
        write_weights(path, for_worker(cut, worker), progress)
    return paths


def map_shards(common: Path, shards: Sequence[Path]) -> list[dict[str, NDArray]]:
    """Every worker's weights, memory-mapped.

    Args:
        common: The weights that all workers hold alike.
        shards: A file a worker; none: there is one worker, and ``common`` has everything.

    Raises:
        CorruptArtefactError: A file is not what its header says.
    """
    whole = map_weights(common)
    return [{**whole, **map_weights(path)} for path in shards] or [whole]


def _joined(parts: Sequence[Firing], linears: Sequence[LinearShare]) -> Firing:
    """The firing of the whole program from its workers'."""
    made = Firing(parts[0].tokens)
    for number, share in enumerate(linears):
        mine = [part.linears[number] for part in parts]
        if share.by_inputs:
            made.linears.append(_sum(mine))
        else:
            fired, rows = mine[0], share.rows
            made.linears.append(
                replace(fired, rate_synops=fired.rate_spikes * rows, bit_synops=fired.bit_spikes * rows)
            )
    made.attentions = [_sum(heads) for heads in zip(*(part.attentions for part in parts), strict=True)]
    return made


def _sum(parts: Sequence[OpFiring]) -> OpFiring:
    total = OpFiring()
    for part in parts:
        total.merge(part)
    return total


class ShardedRunner:
    """See :class:`sdc.targets.base.Runner`: every worker does the same on its share of heads and channels.

    A worker gives the logits of its share of the vocabulary; together they are the program's. Where a token
    follows another, they stay on the devices, which agree on the token.

    Args:
        module: The loaded program, one for all.
        weights: Of each worker.
        memories: Where each worker's tensors lie.
        workers: As many; the runner keeps them.
        linears: For :meth:`score_with_firing`.
    """

    def __init__(
        self,
        module: Any,
        signature: Signature,
        weights: Sequence[Mapping[str, NDArray]],
        memories: Sequence[Memory],
        workers: Workers,
        linears: Sequence[LinearShare],
    ) -> None:
        self._workers, self._signature, self._linears = workers, signature, linears
        self._runners = workers.every(lambda w: CudaRunner(module, signature, weights[w], memories[w]))

    @property
    def position(self) -> int:
        """Tokens that the cache holds."""
        return self._runners[0].position

    @property
    def reused(self) -> int:
        """Tokens that the cache held already at the last :meth:`resume`."""
        return self._runners[0].reused

    @property
    def most_together(self) -> int:
        """Sequences that :meth:`together` takes at most; 0 where the program cannot."""
        return self._runners[0].most_together

    def reset(self) -> None:
        """Forgets all tokens."""
        self._all(CudaRunner.reset)

    def resume(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Makes the cache hold tokens [n] and nothing else; the last one's logits [vocab]."""
        return self._logits(lambda runner: runner.resume(tokens))

    def prefill(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; the last one's logits [vocab]."""
        return self._logits(lambda runner: runner.prefill(tokens))

    def decode(self, token: int) -> NDArray:
        """Appends one token; its logits [vocab]."""
        return self._logits(lambda runner: runner.decode(token))

    def score(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; all logits [n, vocab]."""
        return self._logits(lambda runner: runner.score(tokens))

    def score_with_firing(self, tokens: NDArray | Sequence[int]) -> tuple[NDArray, Firing]:
        """Appends tokens [n]; all logits [n, vocab], NaN and infinity included, and what fired."""
        made = self._all(lambda runner: runner.score_with_firing(tokens))
        firing = _joined([fired for _, fired in made], self._linears)
        return self._whole([logits for logits, _ in made]), firing

    def following(
        self, token: int, choose: Chooser, most: int | None = None, ends: Collection[int] = ()
    ) -> Iterator[int]:
        """The continuation after ``token``; see :class:`sdc.targets.fused.runner.DecoderRunner`."""
        room = self._signature.max_seq - self.position
        left = room if most is None else min(most, room)
        yield from continued(token, lambda last: self._step(last, choose), left, ends)

    def _step(self, token: int, choose: Chooser) -> int:
        """Appends a token; the next one, which the devices agree on."""
        if choose.temperature > 0 and self._runners[0].can_draw:
            settings = settings_of([choose])
            return self._all(lambda runner: runner.drawn(token, settings))[0]
        if choose.temperature > 0 or "greedy" not in self._signature.launches:
            return choose(self.decode(token))
        return self._all(lambda runner: runner.likeliest(token))[0]

    def together(self, count: int) -> Together[ShardedRunner]:
        """``count`` empty sequences that decode together, apart from this runner's own.

        Raises:
            TargetError: The program cannot decode so many together, or a device's memory is too small.
        """
        groups = self._all(lambda runner: runner.group(count))

        def step(tokens: NDArray, places: NDArray) -> NDArray:
            return self._whole(self._workers.every(lambda w: groups[w].step(tokens, places)))

        def choice(tokens: NDArray, places: NDArray, choosers: Sequence[Chooser]) -> list[int]:
            settings = settings_of(choosers)
            return self._workers.every(lambda w: groups[w].draw(tokens, places, settings))[0]

        members = [self._sibling([g.sequences[i] for g in groups]) for i in range(count)]
        return Together(members, step, choice if self._runners[0].can_draw else None)

    def _sibling(self, runners: list[CudaRunner]) -> ShardedRunner:
        """The same program with a sequence of its own, which these runners hold."""
        other = copy(self)
        other._runners = runners
        return other

    def check_next(self, token: int) -> None:
        """Whether one more token can be appended; see :class:`sdc.targets.fused.runner.DecoderRunner`."""
        self._runners[0].check_next(token)

    def took(self, token: int) -> None:
        """Notes a token that was appended from outside."""
        for runner in self._runners:
            runner.took(token)

    def _logits(self, work: Callable[[CudaRunner], NDArray]) -> NDArray:
        return self._whole(self._all(work))

    def _whole(self, parts: Sequence[NDArray]) -> NDArray:
        """Logits [..., vocab] from those that the workers gave, of their shares or of all."""
        vocab = self._signature.vocab
        return parts[0] if parts[0].shape[-1] == vocab else np.concatenate(parts, -1)[..., :vocab]

    def _all(self, work: Callable[[CudaRunner], T]) -> list[T]:
        """What all workers made."""
        return self._workers.every(lambda w: work(self._runners[w]))
