"""calibrate: every operation gets an encoding; a clip ratio below 1 where it pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.sketch import Sketch
from helpers.tiny_llama import tiny_llama

from sdc.errors import PostconditionError
from sdc.ir.model import Encoding, Model
from sdc.ir.ops import linear
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.calibrate import (
    CLIP_RATIOS,
    Calibrate,
    best_clip_ratio,
    best_dead_zone,
    fit_group,
    fit_thresholds,
)
from sdc.passes.graph import Graph
from sdc.passes.spikes import encode, share_of_zeros

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
    for each in Graph(model).linears():
        encoding = after.encodings[each.name]
        assert encoding.levels == 7
        assert encoding.clip_ratio in CLIP_RATIOS
        assert 0 < after.zeros[each.name] < 1
    assert sum(name.endswith(":p") and e.levels == 255 for name, e in after.encodings.items()) == 2
    with pytest.raises(PostconditionError, match="has no encoding"):
        Calibrate().check(model, context)


def test_without_calibration_inputs_nothing_is_clipped() -> None:
    after = Calibrate().run(tiny_llama(), PassContext())
    assert {e.clip_ratio for e in after.encodings.values()} == {1.0}
    assert not after.zeros


def test_the_ratio_has_the_least_output_error() -> None:
    x = rng.normal(size=(64, 16)).astype(np.float32)
    weight = rng.normal(size=(8, 16)).astype(np.float32)
    coarse = best_clip_ratio(x, weight, Encoding(levels=1, group=16))
    assert coarse < 1
    on_grid = np.sign(rng.normal(size=(64, 16))).astype(np.float32)
    assert best_clip_ratio(on_grid, weight, Encoding(levels=1, group=16)) == 1.0


def test_the_dead_zone_has_the_least_output_error() -> None:
    wanted = np.where(rng.random((256, 16)) < 0.3, rng.integers(-3, 4, (256, 16)), 0).astype(np.float32)
    wanted[:, 0] = 3  # so that the threshold is 1 in every row
    noisy = wanted + np.where(wanted == 0, rng.uniform(-0.7, 0.7, wanted.shape), 0).astype(np.float32)
    weight = rng.normal(size=(8, 16)).astype(np.float32)
    encoding = Encoding(levels=3, group=16)
    assert best_dead_zone(noisy, weight, encoding, wanted) == 0.75
    assert best_dead_zone(noisy, weight, encoding) == 0.0  # the noise itself is wanted
    fitted = fit_thresholds(noisy, weight, encoding, PassOptions(), wanted)
    assert (fitted.clip_ratio, fitted.dead_zone) == (1.0, 0.75)
    assert fit_thresholds(noisy, weight, replace(encoding, dead_zone=0.6), PassOptions()).dead_zone == 0.6


def gaussian_linear() -> Model:
    s, weight = Sketch(x=[256, 32]), rng.normal(size=(8, 32)).astype(np.float32)
    return s.model(s(linear(s["x"], s.weight("a", weight), name="a")))


@pytest.mark.parametrize("static", [False, True])
def test_a_floor_makes_the_wanted_number_of_spikes(static) -> None:
    x = rng.laplace(size=(256, 32)).astype(np.float32)
    options = PassOptions(levels=31, spikes=1.5, static=static)
    encoding = Calibrate().run(gaussian_linear(), PassContext(options, ((x,),))).encodings["a"]
    assert (encoding.clip_ratio == 0) == static
    assert encoding.floor > 0
    counts, theta = encode(x, encoding)
    assert np.abs(counts).mean() == pytest.approx(1.5, rel=0.1)
    assert not static or len(np.unique(theta)) == 1


def test_a_floor_that_is_set_stays() -> None:
    x = rng.normal(size=(256, 32)).astype(np.float32)
    given = Encoding(levels=31, group=32, floor=0.3)
    assert fit_thresholds(x, x[:8], given, PassOptions(spikes=9)).floor == 0.3


def test_the_share_of_zeros_is_that_of_the_counts() -> None:
    x = np.array([[4.0, 1.0, 0.1, 0.0], [2.0, -2.0, 0.2, -0.1]], np.float32)
    assert share_of_zeros(x, Encoding(levels=4, group=0)) == 4 / 8
