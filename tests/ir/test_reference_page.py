"""docs/ir.md is what the dialect says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    run = subprocess.run([sys.executable, ROOT / "tools" / "ir_reference.py", "--check"], check=False)
    assert run.returncode == 0, "run `python tools/ir_reference.py`"
