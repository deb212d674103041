"""A process of its own, with its wall clock and peak memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Done", "run_process"]


@dataclass(frozen=True)
class Done:
    """What a process printed, its seconds, and the most memory that it had resident."""

    printed: str
    seconds: float
    peak_bytes: int


def run_process(command: Sequence[str], environment: Mapping[str, str]) -> Done:
    """Runs a command to its end; ``environment`` is added to this process's own."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}) as process:
        assert process.stdout is not None
        printed = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Done(printed, time.perf_counter() - began, usage.ru_maxrss * 1024)
