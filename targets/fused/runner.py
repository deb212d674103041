"""Running a loaded program: caches in place, nothing allocated by us per token."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdc.errors import NumericsError, TargetError
from sdc.targets.base import Chooser
from sdc.targets.firing import Firing
from sdc.targets.fused.machine import Machine, as_array, host_machine, tensor_of, zeros
from sdc.targets.fused.signature import Signature, State
from sdc.threads import cpus

__all__ = [
    "Cell",
    "DecoderRunner",
    "GraphRunner",
    "HostMemory",
    "Memory",
    "UnpackKeys",
    "check_finite",
    "continued",
    "no_number",
    "thread_count",
]

UnpackKeys = Callable[[NDArray], NDArray]
"""From a target's key cache to counts [heads, slots, width], width rounded up as the target does."""


class Cell(Protocol):
    """A tensor of one number that every call reads."""

    @property
    def tensor(self) -> Any:
        """With the number that was set last, unless a kernel has written another."""
        ...

    def set(self, value: int) -> None:
        """Sets the number, not negative."""
        ...


class Memory(Protocol):
    """Where a program's tensors lie, and the machine that runs on them."""

    def machine(self, module: Any) -> Machine:
        """A virtual machine for a loaded module."""
        ...

    def weight(self, array: NDArray) -> Any:
        """A weight, kept for good."""
        ...

    def tensor(self, array: NDArray) -> Any:
        """A copy of an array."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor of zeros, kept for good."""
        ...

    def copies(self, count: int, states: Sequence[State]) -> list[tuple[Any, list[Any]]]:
        """Of each state a tensor [count, ...] of zeros, kept for good, and its ``count`` parts as tensors."""
        ...

    def cell(self, shape: tuple[int, ...]) -> Cell:
        """An int64 tensor with one element, 0."""
        ...


class _HostCell:
    """Written through a view: setting a number is all that a token costs in Python."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._view = zeros(shape, "int64")
        self.tensor = tensor_of(self._view)

    def set(self, value: int) -> None:
        self._view[...] = value


class HostMemory:
    """See :class:`Memory`: this machine's memory; weights stay where they are mapped."""

    def machine(self, module: Any) -> Machine:
        """On as many threads as this process may use."""
        thread_count()
        return host_machine(module)

    def weight(self, array: NDArray) -> Any:
        """No copy is made."""
        return tensor_of(array)

    def tensor(self, array: NDArray) -> Any:
        """A copy of an array."""
        copy = zeros(array.shape, str(array.dtype))
        copy[...] = array
        return tensor_of(copy)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor of zeros, kept for good."""
        return tensor_of(zeros(shape, dtype))

    def copies(self, count: int, states: Sequence[State]) -> list[tuple[Any, list[Any]]]:
        """Of each state a tensor [count, ...] of zeros, kept for good, and its ``count`` parts as tensors."""
        made = [zeros((count, *state.shape), state.dtype) for state in states]
        return [(tensor_of(whole), [tensor_of(part) for part in whole]) for whole in made]

    def cell(self, shape: tuple[int, ...]) -> Cell:
        """An int64 tensor with one element, 0."""
        return _HostCell(shape)


def continued(token: int, step: Callable[[int], int], most: int, ends: Collection[int]) -> Iterator[int]:
    """What ``step`` makes of each token before, at most ``most`` tokens, up to one of ``ends``."""
    for _ in range(most):
        token = step(token)
        yield token
        if token in ends:
            return


def thread_count() -> int:
    """Threads of TVM's pool: ``$TVM_NUM_THREADS``, set to this process's processors where it is not.

    TVM itself counts half of an x86 machine's processors, taking them for hyper-threads. Its threads look for
    work a while before they sleep, and give way 300,000 times by default: 0.1 s of a core for nothing.
    """
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "300")
    return int(os.environ.setdefault("TVM_NUM_THREADS", str(cpus())))


def _is_tensor(result: Any) -> bool:
    """Whether a function gave one tensor, not several."""
    return hasattr(result, "__dlpack__")


def check_finite(logits: NDArray) -> None:
    """Refuses logits that are no numbers.

    Raises:
        NumericsError: One is NaN or infinite.
    """
    # Either end is NaN where any logit is. NumPy finds the place of an end faster than its value.
    flat = logits.reshape(-1)
    if not (np.isfinite(flat[flat.argmax()]) and np.isfinite(flat[flat.argmin()])):
        raise no_number()


def no_number() -> NumericsError:
    """What is raised where a logit is NaN or infinite."""
    return NumericsError(
        "logits", "a logit is NaN or infinite; the statistics run names the operation where it began"
    )


class DecoderRunner:
    """See :class:`sdc.targets.base.Runner`; with ``unpack_keys``, attention probabilities are counted too."""

    def __init__(
        self,
        module: Any,
        signature: Signature,
        weights: Mapping[str, NDArray],
        memory: Memory,
        unpack_keys: UnpackKeys | None = None,
    ) -> None:
        self._signature, self._memory, self._unpack_keys = signature, memory, unpack_keys
        self._machine = memory.machine(module)
        self._mapped = weights
        self._weights = [memory.weight(weights[name]) for name in signature.weights]
        names = [n for n in ("prefill", "decode", "score") if n not in signature.regions]
        self._functions = {name: self._machine[name] for name in names}
        self._token, self._place = memory.cell((1, 1)), memory.cell(())
        self._position = 0
        self._kept: list[int] = []  # the tokens that the cache holds
        self._reused = 0
        self._states = self._new_states()

    def _new_states(self) -> list[Any]:
        """A tensor for every state, zeroed."""
        return [self._memory.zeros(s.shape, s.dtype) for s in self._signature.states]

    @property
    def position(self) -> int:
        """Tokens that the cache holds."""
        return self._position

    @property
    def reused(self) -> int:
        """Tokens that the cache held already at the last :meth:`resume`."""
        return self._reused

    def reset(self) -> None:
        """Forgets all tokens."""
        self._rewind(0)

    def resume(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Makes the cache hold tokens [n] and nothing else; the last one's logits [vocab].

        What the cache holds of them from the start stays; :attr:`reused` then says how many those were. The
        logits are those of an empty cache, bit for bit: a token's keys and values depend on the tokens before
        it alone, and each is computed by itself. The last token is always run, for its logits.
        """
        array = np.asarray(tokens, np.int64).reshape(-1)
        both = min(len(self._kept), max(0, array.size - 1))
        differs = np.flatnonzero(np.array(self._kept[:both], np.int64) != array[:both])
        self._reused = int(differs[0]) if differs.size else both
        self._rewind(self._reused)
        return self.prefill(array[self._reused :])

    def prefill(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; the last one's logits [vocab]."""
        logits = [self._run("prefill", chunk) for chunk in self._chunks(tokens)]
        check_finite(logits[-1])
        return logits[-1][-1]

    def decode(self, token: int) -> NDArray:
        """Appends one token; its logits [vocab]."""
        self.check_next(token)
        self._token.set(token)
        logits = self._call("decode", self._token.tensor, 1)
        self._kept.append(token)
        check_finite(logits)
        return logits[-1]

    def following(
        self, token: int, choose: Chooser, most: int | None = None, ends: Collection[int] = ()
    ) -> Iterator[int]:
        """The continuation after ``token``, token by token, until the cache is full.

        Args:
            token: The first to append.
            choose: Chooses each of the others.
            most: Tokens after which it stops; None for no such number.
            ends: Tokens after any of which it stops.

        Raises:
            NumericsError: A logit is NaN or infinite.
        """
        yield from continued(token, lambda last: self._step(last, choose), self._left(most), ends)

    def _left(self, most: int | None) -> int:
        """Tokens that may follow."""
        room = self._signature.max_seq - self.position
        return room if most is None else min(most, room)

    def _step(self, token: int, choose: Chooser) -> int:
        """Appends a token; the next one. A target may choose it without handing logits over."""
        return choose(self.decode(token))

    def score(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; all logits [n, vocab]."""
        logits = np.concatenate([self._run("score", chunk) for chunk in self._chunks(tokens)])
        check_finite(logits)
        return logits

    def score_with_firing(self, tokens: NDArray | Sequence[int]) -> tuple[NDArray, Firing]:
        """Appends tokens [n]; all logits [n, vocab], NaN and infinity included, and what fired."""
        from sdc.targets.fused.watch import watched  # the reference operations come with the compiler

        firing, logits = Firing(), []
        forms = self._signature.attentions
        with watched(self._machine, firing, forms, self._unpack_keys) as watch:
            for chunk in self._chunks(tokens):
                watch.begin(self.position)
                logits.append(self._run("score", chunk))
                firing.tokens += chunk.size
        return np.concatenate(logits), firing

    def check_next(self, token: int) -> None:
        """Whether one more token can be appended.

        Raises:
            TargetError: The cache is full, or the token unknown.
        """
        self._room(1)
        if not 0 <= token < self._signature.vocab:  # an array for one number would cost more than the check
            self._known(np.asarray([token]))

    def took(self, token: int) -> None:
        """Notes a token that was appended from outside."""
        self._kept.append(token)
        self._move(self._position + 1)

    def _chunks(self, tokens: NDArray | Sequence[int]) -> list[NDArray]:
        array = np.asarray(tokens, np.int64).reshape(-1)
        if not array.size:
            raise TargetError("a prompt must hold at least one token")
        self._room(array.size)
        self._known(array)
        step = self._signature.chunk
        return [array[i : i + step] for i in range(0, array.size, step)]

    def _known(self, tokens: NDArray) -> NDArray:
        vocabulary = self._signature.vocab
        if tokens.min() < 0 or tokens.max() >= vocabulary:
            raise TargetError(
                f"token ids must lie within 0..{vocabulary - 1}, got {tokens.min()}..{tokens.max()}"
            )
        return tokens

    def _room(self, count: int) -> None:
        if self.position + count > self._signature.max_seq:
            raise TargetError(
                f"{self.position} + {count} tokens do not fit into a cache of {self._signature.max_seq}; "
                "compile with a larger --max-seq"
            )

    def _run(self, name: str, tokens: NDArray) -> NDArray:
        logits = self._call(name, self._memory.tensor(tokens[None]), tokens.size)
        self._kept += tokens.tolist()
        return logits

    def _rewind(self, position: int) -> None:
        """Forgets the tokens from a position on; the next ones are written over them."""
        self._move(position)
        del self._kept[position:]

    def _move(self, position: int) -> None:
        self._position = position
        self._place.set(position)

    def _call(self, name: str, tokens: Any, count: int) -> NDArray:
        made = self._functions[name](tokens, self._place.tensor, *self._states, *self._weights)
        if not _is_tensor(made):
            made, *states = made
            fresh = iter(states)
            kept = zip(self._states, self._signature.states, strict=True)
            self._states = [old if s.in_place else next(fresh) for old, s in kept]
        self._move(self._position + count)
        logits = as_array(made)
        return logits.reshape(-1, logits.shape[-1])


class GraphRunner:
    """See :class:`sdc.targets.base.StatelessRunner`."""

    def __init__(
        self, module: Any, signature: Signature, weights: Mapping[str, NDArray], memory: Memory
    ) -> None:
        self._signature, self._memory = signature, memory
        self._machine = memory.machine(module)
        self._mapped = weights
        self._weights = [memory.weight(weights[name]) for name in signature.weights]

    def call(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Runs the graph.

        Raises:
            TargetError: An input is missing, or has another dtype or shape.
            NumericsError: An output is NaN or infinite.
        """
        tensors = [self._tensor(inputs, *expected) for expected in self._signature.inputs]
        made = self._machine["main"](*tensors, *self._weights)
        results = [made] if _is_tensor(made) else list(made)
        arrays = dict(zip(self._signature.outputs, (as_array(r) for r in results), strict=True))
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise NumericsError(name, "the output holds NaN or infinite values")
        return arrays

    def _tensor(self, inputs: Mapping[str, NDArray], name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        array = inputs.get(name)
        fits = (
            array is not None
            and str(array.dtype) == dtype
            and array.ndim == len(shape)
            and all(want in (-1, got) for want, got in zip(shape, array.shape, strict=True))
        )
        if array is None or not fits:
            got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise TargetError(f'input "{name}" must be {dtype} {list(shape)} (-1: any length), got {got}')
        return self._memory.tensor(np.asarray(array, order="C"))
