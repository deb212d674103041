"""The pipeline: order, dumps, checks, progress, and results through all float-side passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.sketch import Sketch
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import ConfigError, PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.ir.params import FunctionSource, Param
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.pipeline import PHASES, compile_passes, run_passes
from sdc.passes.registry import PASSES, find_pass

rng = np.random.default_rng(0)
CTX = PassContext(PassOptions(block=8), tuple(rng.integers(0, 64, 12) for _ in range(2)))
FLOAT_SIDE = [find_pass(name) for phase in PHASES[:2] for name in phase.passes]


@pytest.mark.parametrize("options", [{}, {"bias": True, "tied": False}, {"hidden": 36, "ffn": 42}])
def test_a_decoder_keeps_its_results_through_all_float_passes(options) -> None:
    model = tiny_llama(**options)
    inputs = decoder_inputs(model, rng.integers(0, 64, (2, 9)))
    after = run_passes(model, FLOAT_SIDE, CTX, verify=True)
    want, got = (Evaluator(m).run("forward", *inputs)[0] for m in (model, after))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def layer_norm_mlp() -> Model:
    def weight(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    s = Sketch(x=[5, 12])
    h = s(relax.op.nn.layer_norm(s["x"], s.weight("g", weight(12)), s.weight("b", weight(12)), -1, 1e-5))
    h = s(relax.op.matmul(h, s.weight("up.weight", weight(12, 20))))
    h = s(relax.op.nn.gelu(s(relax.op.add(h, s.weight("up.bias", weight(20))))))
    h = s(relax.op.matmul(h, s.weight("down.weight", weight(20, 6))))
    h = s(relax.op.nn.relu(s(relax.op.add(h, s.weight("down.bias", weight(6))))))
    return s.model(s(relax.op.matmul(h, s.weight("out.weight", weight(6, 3)))))


def test_a_layer_norm_mlp_with_biases_keeps_its_results() -> None:
    model, x = layer_norm_mlp(), rng.normal(size=(5, 12)).astype(np.float32)
    after = run_passes(model, FLOAT_SIDE, PassContext(CTX.options, ((x,),)), verify=True)
    want, got = (Evaluator(m).run("main", x)[0] for m in (model, after))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    assert after.notes == ("project: not rotated, since no block of 4 or more divides their 6 channels: out",)


def test_only_calibration_reads_weights() -> None:
    loads: list[str] = []

    def counted(param: Param) -> Param:
        def load() -> np.ndarray:
            loads.append(param.name)
            return param.value()

        return Param(param.name, param.shape, param.dtype, FunctionSource(load))

    model = tiny_llama()
    model = Model(model.module, {n: counted(p) for n, p in model.params.items()}, model.info)
    run_passes(model, [p for p in FLOAT_SIDE if p.name != "smooth"], CTX)
    assert loads == []


def test_dumps_are_numbered(tmp_path: Path) -> None:
    run_passes(tiny_llama(layers=1), FLOAT_SIDE, CTX, dump_ir=tmp_path / "ir")
    names = [path.name for path in sorted((tmp_path / "ir").iterdir())]
    assert names == [
        "00-lifted.txt",
        "01-canonicalise.txt",
        "02-merge-parallel-linears.txt",
        "03-fold-norm-gamma.txt",
        "04-rotate-residual.txt",
        "05-smooth.txt",
        "06-project.txt",
    ]
    text = (tmp_path / "ir" / names[-1]).read_text()
    assert "R.sdc.hadamard(" in text
    assert "#   head.weight [64, 32] float32: scale columns by norm.weight, scale columns by" in text


def test_progress_names_every_pass() -> None:
    said: list[tuple[str, int, int]] = []
    ctx = PassContext(CTX.options, CTX.calibration, lambda *step: said.append(step))
    run_passes(tiny_llama(layers=1), FLOAT_SIDE, ctx)
    assert [s for s in said if s[0] in PASSES] == [(p.name, i, 6) for i, p in enumerate(FLOAT_SIDE)]
    assert ("calibrating", 2, 2) in said


class Breaks:
    """A pass that loses a weight."""

    name = "breaks"

    def run(self, model: Model, ctx: PassContext) -> Model:
        return Model(model.module, {}, model.info)

    def check(self, model: Model, ctx: PassContext) -> None:
        raise PostconditionError(self.name, "checked")


def test_verify_checks_every_pass() -> None:
    with pytest.raises(PostconditionError, match="pass breaks: weight"):
        run_passes(tiny_llama(layers=1), [Breaks()], CTX, verify=True)
    run_passes(tiny_llama(layers=1), [Breaks()], CTX)


def test_every_pass_of_the_pipeline_is_registered_once() -> None:
    names = [each.name for each in compile_passes()]
    assert len(set(names)) == len(names)
    assert set(names) <= set(PASSES)
    assert all(name == each.name for name, each in PASSES.items())


def test_an_unknown_pass_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match='no pass "smoth"; did you mean smooth'):
        find_pass("smoth")
