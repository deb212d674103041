"""The command line, called within the test's process."""

from __future__ import annotations

import sys

import pytest

from sdc.cli import main

__all__ = ["command"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs ``sdc ARGS``; returns exit status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sdc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run
