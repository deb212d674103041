"""The benchmark of the CUDA target says so where there is no device."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest
import tvm


@pytest.mark.skipif(tvm.cuda(0).exist, reason="this machine has a CUDA device")
def test_without_a_device_it_is_one_sentence(monkeypatch, request, capsys) -> None:
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["cuda_target.py"])
    with pytest.raises(SystemExit) as ended:
        import_module("cuda_target").main()
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert "no CUDA device" in said
