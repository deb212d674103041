"""Machine descriptions from YAML, with errors that name file, line and field."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sdc.errors import ConfigError
from sdc.targets.neuro.machine.description import Machine

__all__ = ["MachineError", "load_machine", "parse_machine", "shipped_machines"]

_FOLDER = "sdc.targets.neuro.machines"
Path_ = tuple[str, ...]


class MachineError(ConfigError):
    """A machine description is not readable, or says something impossible."""


def shipped_machines() -> tuple[str, ...]:
    """Names of the machines that come with the package, sorted."""
    names = (entry.name for entry in files(_FOLDER).iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_machine(name_or_path: str | Path) -> Machine:
    """A shipped machine by name, or a user's own from its file.

    Raises:
        MachineError: No such machine, or its description is wrong (file and line are named).
    """
    text = str(name_or_path)
    if text in shipped_machines():
        resource = files(_FOLDER).joinpath(f"{text}.yaml")
        return parse_machine(resource.read_text(encoding="utf-8"), f"{text}.yaml")
    path = Path(name_or_path)
    try:
        return parse_machine(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        known = ", ".join(shipped_machines())
        raise MachineError(f"machine {text!r}: no such file, and no shipped machine ({known})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"machine {text!r}: cannot be read: {error}") from error


def parse_machine(text: str, source: str) -> Machine:
    """A machine from the text of its YAML description.

    Args:
        source: What to call the text in errors.

    Raises:
        MachineError: All mistakes at once, one per line of the message, each with its line.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _Lines(source)
        data = lines.read(root)
    except yaml.YAMLError as error:
        raise MachineError(f"{source}: {_syntax(error)}") from error
    if not isinstance(data, dict):
        raise MachineError(f"{source}: a machine is a mapping with name, board, network, core, energy")
    try:
        return Machine.model_validate(data)
    except ValidationError as error:
        raise MachineError("\n".join(lines.explain(e) for e in error.errors())) from None


def _syntax(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}not valid YAML: {getattr(error, 'problem', None) or error}"


class _Lines:
    """Plain values out of YAML nodes, remembering the line of every key."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.of: dict[Path_, int] = {}
        self.constructor = yaml.SafeLoader("")

    def read(self, node: yaml.Node | None, path: Path_ = ()) -> Any:
        if node is None:
            return None
        self.of.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, str(i))) for i, item in enumerate(node.value)]
        try:
            return self.constructor.construct_object(node)
        except ValueError as error:
            where = f"{self.source}:{node.start_mark.line + 1}: {'.'.join(path)}"
            raise MachineError(f"{where}: {error}") from error

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise MachineError(f"{self.source}:{line}: a key must be a plain word or number")
            key = self.constructor.construct_object(key_node)
            child = (*path, str(key))
            if key in out:
                raise MachineError(
                    f"{self.source}:{line}: {'.'.join(child)}: given twice, first on line {self.of[child]}"
                )
            self.of[child] = line
            out[key] = self.read(value_node, child)
        return out

    def explain(self, error: Any) -> str:
        """One mistake in words; where a field is missing, the line is that of the section it belongs to."""
        path: Path_ = tuple(str(part) for part in error["loc"])
        known = path
        while known and known not in self.of:
            known = known[:-1]
        line = self.of.get(known, 1)
        message = {"missing": "required field is missing", "extra_forbidden": "unknown field"}.get(
            error["type"], error["msg"].removeprefix("Value error, ")
        )
        silent = error["type"] == "missing" or isinstance(error["input"], dict)
        given = "" if silent else f" (got {error['input']!r})"
        where = f"{'.'.join(path)}: " if path else ""
        return f"{self.source}:{line}: {where}{message}{given}"
