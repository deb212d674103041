"""A program that several workers share: its weights on disk, and the runner that leads the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sdc.ir.params import Param
from sdc.targets.base import Chooser, Progress
from sdc.targets.cuda.runner import CudaRunner
from sdc.targets.cuda.shard import for_worker, is_cut
from sdc.targets.cuda.workers import Workers
from sdc.targets.fused.runner import Memory
from sdc.targets.fused.signature import Signature
from sdc.targets.weights import map_weights, write_weights

__all__ = ["ShardedRunner", "map_shards", "write_shards"]


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


class ShardedRunner:
    """See :class:`sdc.targets.base.Runner`: every worker does the same on its share of heads and channels.

    After the last all-reduce all workers hold the same numbers, so the first one's logits are the program's,
    and all choose the same token on their devices. What fired is not counted: each worker sees its share.

    Args:
        module: The loaded program, one for all.
        weights: Of each worker.
        memories: Where each worker's tensors lie.
        workers: As many; the runner keeps them.
    """

    def __init__(
        self,
        module: Any,
        signature: Signature,
        weights: Sequence[Mapping[str, NDArray]],
        memories: Sequence[Memory],
        workers: Workers,
    ) -> None:
        self._workers, self._max_seq = workers, signature.max_seq
        self._runners = workers.every(lambda w: CudaRunner(module, signature, weights[w], memories[w]))

    @property
    def position(self) -> int:
        """Tokens that the cache holds."""
        return self._runners[0].position

    @property
    def reused(self) -> int:
        """Tokens that the cache held already at the last :meth:`resume`."""
        return self._runners[0].reused

    def reset(self) -> None:
        """Forgets all tokens."""
        self._all(CudaRunner.reset)

    def resume(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Makes the cache hold tokens [n] and nothing else; the last one's logits [vocab]."""
        return self._all(lambda runner: runner.resume(tokens))

    def prefill(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; the last one's logits [vocab]."""
        return self._all(lambda runner: runner.prefill(tokens))

    def decode(self, token: int) -> NDArray:
        """Appends one token; its logits [vocab]."""
        return self._all(lambda runner: runner.decode(token))

    def score(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; all logits [n, vocab]."""
        return self._all(lambda runner: runner.score(tokens))

    def following(self, token: int, choose: Chooser) -> Iterator[int]:
        """The continuation after ``token``, token by token, until the cache is full.

        Every device chooses the likeliest token itself; others are drawn once, from the first one's logits.
        """
        following = [runner.following(token, choose) for runner in self._runners]
        while self.position < self._max_seq:
            if choose.temperature > 0:
                token = choose(self.decode(token))
            else:
                token = self._workers.every(lambda w: next(following[w]))[0]
            yield token

    def _all(self, work: Callable[[CudaRunner], Any]) -> Any:
        """The first worker's result of what all do."""
        return self._workers.every(lambda w: work(self._runners[w]))[0]
