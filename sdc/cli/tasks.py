"""``sdc eval --tasks``: tasks of the lm-evaluation-harness, whose data are local."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sdc.cli.tables import print_json, print_rows
from sdc.cli.verbs import reference_of
from sdc.errors import ConfigError
from sdc.runtime import Program

__all__ = ["evaluate_tasks"]


def evaluate_tasks(path: Path, tasks: str, folder: Path | None, limit: int | None, *, json: bool) -> None:
    """Scores of a program and of its original model.

    Raises:
        ConfigError: The harness is not installed, or there is no folder with task definitions.
    """
    try:
        from sdc.evaluation.lm_eval import run_tasks
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != "lm_eval":
            raise
        raise ConfigError("--tasks needs the extra lm-eval: pip install 'sdc-compiler[lm-eval]'") from error
    if folder is None:
        raise ConfigError("--tasks needs --task-path, a directory with the tasks' YAML definitions")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    program = Program.load(path)
    rows = [asdict(score) for score in run_tasks(program, reference_of(program), names, folder, limit)]
    if json:
        print_json({"tasks": rows})
    else:
        print_rows(str(path), rows, ("task", "metric", "program", "reference", "error", "samples"))
