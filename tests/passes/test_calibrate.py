"""calibrate: every operation gets an encoding; a clip ratio below 1 where it pays."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny_llama import tiny_llama

from sdc.errors import PostconditionError
from sdc.ir.model import Encoding
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.calibrate import CLIP_RATIOS, Calibrate, best_clip_ratio, fit_group
from sdc.passes.graph import Graph

rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("width", "group", "fits"), [(576, 64, 64), (96, 64, 48), (7, 4, 1), (64, 0, 64), (32, 64, 32)]
)
def test_groups_divide_the_width(width, group, fits) -> None:
    assert fit_group(width, group) == fits


def test_every_operation_gets_an_encoding() -> None:
    model = tiny_llama()
    context = PassContext(PassOptions(levels=7, group=16), tuple(rng.integers(0, 64, (2, 8))))
    after = Calibrate().run(model, context)
    Calibrate().check(after, context)
    for linear in Graph(model).linears():
        encoding = after.encodings[linear.name]
        assert encoding.levels == 7
        assert encoding.clip_ratio in CLIP_RATIOS
    assert sum(name.endswith(":p") and e.levels == 255 for name, e in after.encodings.items()) == 2
    with pytest.raises(PostconditionError, match="has no encoding"):
        Calibrate().check(model, context)


def test_without_calibration_inputs_nothing_is_clipped() -> None:
    after = Calibrate().run(tiny_llama(), PassContext())
    assert {e.clip_ratio for e in after.encodings.values()} == {1.0}


def test_the_ratio_has_the_least_output_error() -> None:
    x = rng.normal(size=(64, 16)).astype(np.float32)
    weight = rng.normal(size=(8, 16)).astype(np.float32)
    coarse = best_clip_ratio(x, weight, Encoding(levels=1, group=16))
    assert coarse < 1
    on_grid = np.sign(rng.normal(size=(64, 16))).astype(np.float32)
    assert best_clip_ratio(on_grid, weight, Encoding(levels=1, group=16)) == 1.0
