"""Reading external data: values as stored, and no page of the file stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from sdc.frontends.onnx.stored import read_tensor

SIZE = 4 << 20  # elements: 16 MiB


def test_external_data_are_read_without_keeping_the_file_in_memory(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no Linux: the memory of a mapping cannot be read")
    wanted = np.random.default_rng(0).standard_normal(SIZE, np.float32)
    (tmp_path / "weights.data").write_bytes(bytes(64) + wanted.tobytes())
    shape = ir.Shape([SIZE])
    tensor = ir.ExternalTensor(
        "weights.data", 64, 4 * SIZE, ir.DataType.FLOAT, name="w", shape=shape, base_dir=tmp_path
    )
    before = _mapped(status)
    for _ in range(2):
        array = read_tensor(tensor)
        np.testing.assert_array_equal(array, wanted)
        array[0] = 0  # a copy: the file keeps its values
    assert _mapped(status) - before < SIZE  # a quarter of the file


def test_values_in_memory_are_taken_as_they_are() -> None:
    array = np.arange(3, dtype=np.float32)
    assert read_tensor(ir.Tensor(array)) is array


def _mapped(status: Path) -> int:
    """Bytes of files that this process has resident."""
    line = next(s for s in status.read_text().splitlines() if s.startswith("RssFile:"))
    return int(line.split()[1]) * 1024
