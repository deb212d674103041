"""Runs mypy --strict over the four packages as they install.

`passes`, `targets` and `frontends` stand at the top of the tree and install under `sdc`, which mypy cannot
know. So it is shown a tree of links that looks like the installed package.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Exit status of mypy."""
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "sdc"
        package.mkdir()
        for child in (*(ROOT / "sdc").iterdir(), *(ROOT / n for n in ("passes", "targets", "frontends"))):
            (package / child.name).symlink_to(child)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "sdc"]
        command += ["--cache-dir", str(ROOT / ".mypy_cache")]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        top, _, rest = line.removeprefix(f"sdc{os.sep}").partition(os.sep)
        moved = line.startswith(f"sdc{os.sep}") and top in ("passes", "targets", "frontends")
        print(f"{top}{os.sep}{rest}" if moved else line)
    print(done.stderr, file=sys.stderr, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
