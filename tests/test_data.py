"""The shipped texts: two halves that share nothing."""

from __future__ import annotations

from sdc.data import demo_text


def test_the_halves_share_no_paragraph() -> None:
    calibration, evaluation = demo_text()
    assert len(calibration) > 25_000
    assert len(evaluation) > 25_000
    shared = {p for p in calibration.splitlines() if len(p) > 40} & set(evaluation.splitlines())
    assert not shared
