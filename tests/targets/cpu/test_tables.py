"""Tables stored as bytes: the rows that come out are the evaluator's, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from helpers.sketch import Sketch
from tvm import relax

from sdc.config import CompileConfig
from sdc.ir.params import array_param
from sdc.ir.tables import ByteRows
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level


def test_rows_come_from_bytes_and_stay_inside_the_table(tmp_path) -> None:
    table = array_param("table", np.random.default_rng(0).standard_normal((9, 20)).astype(np.float32))
    table = table.then(ByteRows())
    sketch = Sketch(ids=((5,), "int64"))
    model = sketch.model(sketch(relax.op.take(sketch.weight("table", table), sketch["ids"], axis=0)))
    model = replace(model, params={"table": table})
    target = CpuTarget((best_level().name,))
    built = target.build(model, CompileConfig.of(), tmp_path, lambda *_: None)
    assert (tmp_path / built.manifest["weights"]).stat().st_size < 1000  # 180 bytes, 9 scales, a header
    runner = target.load(tmp_path, built.manifest)
    ids = np.array([0, 8, 3, 3, 7])
    (got,) = runner.call({"ids": ids}).values()
    np.testing.assert_array_equal(got, table.value()[ids])
    (clipped,) = runner.call({"ids": np.array([-4, 9, 10**12, 8, 0])}).values()
    np.testing.assert_array_equal(clipped, table.value()[[0, 8, 8, 8, 0]])
