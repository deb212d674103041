"""Reading what ``sdc eval --json`` printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdc.errors import ConfigError

__all__ = ["read_evaluation"]


def read_evaluation(path: Path) -> dict[str, Any]:
    """What ``sdc eval --json`` printed.

    Raises:
        ConfigError: The file is missing, or something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _ = found["ops"], found["tokens"], found["spikes_per_neuron"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not what `sdc eval --json` prints ({error})") from error
    return dict(found)
