"""Settings: defaults, refusals in words, what reaches the manifest."""

from __future__ import annotations

import json

import pytest

from sdc.config import CompileConfig
from sdc.errors import ConfigError
from sdc.passes.base import PassOptions
from sdc.presets import PRESETS


def test_defaults_are_those_of_the_passes():
    config = CompileConfig.of()
    for name, value in vars(PassOptions()).items():
        assert getattr(config, name) == value


def test_weights_below_8_bits_are_quantised_layer_by_layer_on_more_text():
    config = CompileConfig.of(weights="int4")
    assert (config.quantiser, config.calibration_windows, config.calibration_window) == ("gptq", 40, 256)
    assert CompileConfig.of(weights="int4", quantiser="rtn", calibration_window=64).calibration_window == 64


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": 0}, "levels = 0"),
        ({"levels": 128}, "levels = 128"),
        ({"weights": "int5"}, "weights = 'int5'"),
        ({"coding": "morse"}, "coding = 'morse'"),
        ({"block": 48}, "power of two"),
        ({"smoothing": 1.5}, "smoothing = 1.5"),
        ({"smoothing": "seek"}, "smoothing = 'seek'"),
        ({"max_seq": 1}, "max_seq = 1"),
        ({"leels": 3}, 'no setting "leels"'),
    ],
)
def test_refusals_name_the_setting_and_its_value(settings, words):
    with pytest.raises(ConfigError, match=words):
        CompileConfig.of(**settings)


def test_all_refusals_come_at_once():
    with pytest.raises(ConfigError, match=r"levels.*seed"):
        CompileConfig.of(levels=0, seed=-1)


def test_the_manifest_holds_what_changes_the_result(tmp_path):
    config = CompileConfig.of(levels=7, calibration=tmp_path / "a.txt", dump_ir=tmp_path, verify=True)
    stored = json.loads(json.dumps(config.to_manifest()))
    assert stored["levels"] == 7
    assert {"dump_ir", "verify"}.isdisjoint(stored)
    assert CompileConfig.of(**stored) == config.model_copy(update={"dump_ir": None, "verify": False})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_start_that_own_settings_override(name):
    config = CompileConfig.of(preset=name)
    for key, value in PRESETS[name].settings.items():
        assert getattr(config, key) == value
    own = CompileConfig.of(preset=name, levels=3, weights=None)
    assert (own.levels, own.weights) == (3, config.weights)
    assert own.to_manifest()["preset"] == name


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match='no preset "spares"; presets are: accurate'):
        CompileConfig.of(preset="spares")


def test_static_thresholds_need_a_count():
    assert CompileConfig.of(static=True, spikes=1.5).static
    with pytest.raises(ConfigError, match="static thresholds need spikes"):
        CompileConfig.of(static=True)
