"""What a target is: it builds an artefact from a spiking model, and loads one into something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.random import Generator
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sdc.ir.model import Model, ModelInfo

__all__ = ["BuildResult", "Chooser", "Progress", "Runner", "StatelessRunner", "Target"]

# Called with what is being done, steps done, and steps in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuildResult:
    """What a target wrote.

    Attributes:
        files: Paths below the output directory, in the order in which they were written.
        manifest: Entries that the target's ``load`` wants to see again; plain JSON values.
    """

    files: tuple[Path, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)


class Chooser(Protocol):
    """How the next token is chosen from logits: see :class:`sdc.runtime.sampling.Sampler`."""

    temperature: float
    top_p: float
    random: Generator

    def __call__(self, logits: NDArray) -> int:
        """A token id from logits [vocab]; draws one number from ``random``, none at temperature 0."""
        ...


class Runner(Protocol):
    """A loaded decoder with its state. One conversation at a time; not safe across threads.

    A runner may also have ``following``, ``resume`` and ``reused``: see
    :class:`sdc.targets.fused.runner.DecoderRunner`; and ``together`` and ``most_together``: see
    :class:`sdc.targets.fused.together.Together`.
    """

    @property
    def position(self) -> int:
        """Tokens that the cache holds."""
        ...

    def reset(self) -> None:
        """Forgets all tokens."""
        ...

    def prefill(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n] to the cache; returns the last one's logits [vocab], float32.

        Raises:
            NumericsError: A logit is NaN or infinite.
            TargetError: The cache is too short.
        """
        ...

    def decode(self, token: int) -> NDArray:
        """Appends one token; returns its logits [vocab]. Raises as :meth:`prefill`."""
        ...

    def score(self, tokens: NDArray | Sequence[int]) -> NDArray:
        """Appends tokens [n]; returns all their logits [n, vocab]. Raises as :meth:`prefill`."""
        ...


class StatelessRunner(Protocol):
    """A loaded graph without state."""

    def call(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Runs the graph on arrays by input name; returns arrays by output name."""
        ...


class Target(Protocol):
    """A back end."""

    name: str

    def check(self, config: Any) -> None:
        """Looks at the settings before any work is done.

        Raises:
            ConfigError: They do not suit this target.
        """
        ...

    def check_model(self, info: ModelInfo, config: Any) -> None:
        """Looks at the model, as it was read, before its passes take their time.

        Raises:
            TargetError: This target cannot build it with these settings.
        """
        ...

    def build(self, model: Model, config: Any, out: Path, progress: Progress) -> BuildResult:
        """Compiles a spiking model into files below ``out``, an existing directory.

        Args:
            model: After the spike rewrite.
            config: The compile settings.
            progress: Told of every step that may take a while.

        Raises:
            TargetError: The model holds something that this target cannot build.
        """
        ...

    def load(self, artefact: Path, manifest: Mapping[str, Any]) -> Runner | StatelessRunner:
        """Opens what :meth:`build` wrote (the caller has checked hashes).

        Raises:
            TargetError: This machine cannot run it.
        """
        ...
