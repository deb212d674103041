"""The built wheel, installed into a fresh environment, is the whole product and adds only ``sdc``."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import sdc

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_source_file_below_sdc(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sdc"}
    for folder, package in (
        ("sdc", "sdc"),
        *((n, f"sdc/{n}") for n in ("passes", "targets", "frontends")),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in names


def test_the_wheel_runs_in_a_fresh_environment(wheel, tmp_path):
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    pip += ["--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    # What it depends on is here already: the folder of this environment's packages, without its .pth files.
    site = next((tmp_path / "env" / "lib").glob("python3*/site-packages"))
    (site / "dependencies.pth").write_text("\n".join(_package_folders()))
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "sdc", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"sdc {sdc.__version__}\n"), done.stderr
    where = "import sdc.passes, sdc.targets, sdc.frontends, sdc.passes.pipeline as p; print(p.__file__)"
    found = subprocess.run(
        [python, "-c", where], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    assert str(site) in found


def _package_folders() -> list[str]:
    own = sysconfig.get_paths()["purelib"]
    return [own, *(p for p in sys.path if p.endswith("site-packages") and p != own)]
