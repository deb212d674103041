"""Progress bars on stderr: what is being done, how far it is."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Bars"]


class Bars:
    """A listener that draws one bar per kind of step; silent where ``quiet``, or stderr is no terminal.

    What comes after a colon in a step's name ("weights: model.embed") is detail within the same bar.
    """

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of ``what`` are behind us."""
        kind = what.partition(":")[0]
        if kind not in self._tasks:
            self._tasks[kind] = self._progress.add_task(kind, total=max(1, total))
        self._progress.update(self._tasks[kind], completed=done, total=max(1, total))

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()
