"""Without the harness, the command says what to install."""

from __future__ import annotations

import sys

import pytest

from sdc.cli.tasks import evaluate_tasks
from sdc.errors import ConfigError


def test_the_extra_is_named(tiny_program, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "lm_eval" or n == "sdc.evaluation.lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match="lm-eval"):
        evaluate_tasks(tiny_program, "any", tmp_path, None, json=True)


def test_definitions_must_be_local(tiny_program):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    with pytest.raises(ConfigError, match="--task-path"):
        evaluate_tasks(tiny_program, "any", None, None, json=True)
