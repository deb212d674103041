"""Running core programs: the functional simulator behind the interface that every target has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.errors import NumericsError, TargetError
from sdc.targets.firing import Firing, OpFiring
from sdc.targets.neuro.codegen.module import Compiled
from sdc.targets.neuro.codegen.signature import Port, Probe
from sdc.targets.neuro.isa.program import Program
from sdc.targets.neuro.simulate.functional import FunctionalSimulator

__all__ = ["DecoderRunner", "GraphRunner", "Signature"]


@dataclass(frozen=True)
class Signature:
    """How the host talks to a program: plain data, kept in the manifest.

    Attributes:
        kind: ``decoder`` or ``stateless``.
        vocab: Rows of the embedding table; 0 for graphs.
    """

    kind: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    probes: tuple[Probe, ...]
    max_seq: int
    vocab: int

    @staticmethod
    def of(kind: str, vocab: int, compiled: Compiled) -> Signature:
        """The signature of a generated program."""
        return Signature(kind, compiled.inputs, compiled.outputs, compiled.probes, compiled.max_seq, vocab)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Signature:
        """The inverse of :meth:`to_json`."""
        ports = {
            k: tuple(Port(**{**p, "shape": tuple(p["shape"])}) for p in data[k])
            for k in ("inputs", "outputs")
        }
        probes = tuple(Probe(**p) for p in data["probes"])
        return Signature(**{**data, **ports, "probes": probes})


class DecoderRunner:
    """See :class:`sdc.targets.base.Runner`. A prompt runs token by token: that is what the program does.

    Attributes:
        machine: The simulator, with its traffic and the events of every core.
    """

    def __init__(self, program: Program, external: NDArray, signature: Signature) -> None:
        self.machine = FunctionalSimulator(program, external)
        self._host = _Host(self.machine, external, signature)
        self.signature = signature
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens that the caches hold."""
        return self._position

    def reset(self) -> None:
        """Forgets all tokens, and the statistics."""
        self.machine.reset()
        self._position = 0

    def prefill(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; the last one's logits [vocab]."""
        return self.score(tokens)[-1]

    def decode(self, token: int) -> NDArray:
        """Appends one token; its logits [vocab]."""
        return self.score([token])[0]

    def score(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; all logits [n, vocab]."""
        array = np.asarray(tokens, np.int64).reshape(-1)
        limits = self.signature
        if not array.size:
            raise TargetError("a prompt must hold at least one token")
        if self._position + array.size > limits.max_seq:
            raise TargetError(
                f"{self._position} + {array.size} tokens do not fit into a cache of {limits.max_seq}; "
                "compile with a larger --max-seq"
            )
        if array.min() < 0 or array.max() >= limits.vocab:
            raise TargetError(
                f"token ids must lie within 0..{limits.vocab - 1}, got {array.min()}..{array.max()}"
            )
        return np.stack([self._step(int(token)) for token in array])

    def score_with_firing(self, tokens: NDArray | Sequence[int]) -> tuple[NDArray, Firing]:
        """Appends tokens [n]; all logits [n, vocab], and what fired."""
        watch = _Watch(self.signature.probes, self)
        self.machine.watch = watch
        try:
            logits = self.score(tokens)
        finally:
            self.machine.watch = None
        watch.firing.tokens = len(logits)
        return logits, watch.firing

    def _step(self, token: int) -> NDArray:
        for port in self.signature.inputs:
            self._host.put(port, np.array([token]))
        logits = self._host.take(self.signature.outputs[0]).reshape(-1)
        if not np.isfinite(logits).all():
            raise NumericsError("logits", "a logit is NaN or infinite")
        self._position += 1
        return logits


class GraphRunner:
    """See :class:`sdc.targets.base.StatelessRunner`; one row of a batch at a time is one turn of the program.

    Attributes:
        machine: The simulator, with its traffic and the events of every core.
    """

    def __init__(self, program: Program, external: NDArray, signature: Signature) -> None:
        self.machine = FunctionalSimulator(program, external)
        self._host = _Host(self.machine, external, signature)
        self.signature = signature

    def call(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Runs the graph on inputs of the compiled shapes; outputs are ``output_0``, ``output_1`` ...

        Raises:
            TargetError: An input is missing or has another shape.
            NumericsError: An activation is NaN or infinite.
        """
        for port in self.signature.inputs:
            if port.name not in inputs or tuple(inputs[port.name].shape) != port.shape:
                raise TargetError(f'input "{port.name}" must be given, with shape {list(port.shape)}')
        for port in self.signature.inputs:
            self._host.put(port, inputs[port.name])
        return {port.name: self._host.take(port) for port in self.signature.outputs}


class _Host:
    """What stands outside the machine: it sends inputs, takes outputs, and keeps tables for machines without
    external memory.
    """

    def __init__(self, machine: FunctionalSimulator, external: NDArray, signature: Signature) -> None:
        self.machine, self.external, self.signature = machine, external, signature

    def put(self, port: Port, value: NDArray) -> None:
        if port.row_bytes:
            start = port.offset + int(value.reshape(-1)[0]) * port.row_bytes
            words = self.external[start : start + port.row_bytes].view(port.dtype)
        else:
            words = np.asarray(value, port.dtype).reshape(-1)
        self.machine.put(port.core, port.tag, words)

    def take(self, port: Port) -> NDArray:
        return self.machine.take(port.tag, port.sources).view(port.dtype).reshape(port.shape)


class _Watch:
    """Counts what fires: the simulator shows it every ``count``."""

    def __init__(self, probes: Sequence[Probe], runner: DecoderRunner) -> None:
        self.firing, self.runner = Firing(), runner
        self.at: dict[tuple[int, int], list[tuple[Probe, OpFiring]]] = {}
        for probe in probes:
            fired = OpFiring()
            (self.firing.linears if probe.kind == "linear" else self.firing.attentions).append(fired)
            self.at.setdefault((probe.core, probe.pc), []).append((probe, fired))

    def __call__(self, core: int, pc: int, counts: NDArray, theta: NDArray) -> None:
        keys = self.runner.position + 1
        for probe, fired in self.at.get((core, pc), ()):
            fired.add(counts[None], theta, probe.fan_out or keys)
