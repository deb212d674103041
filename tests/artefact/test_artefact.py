"""The directory format: whole or absent, and no damage goes unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.artefact import FORMAT_VERSION, MANIFEST, open_artefact, staged, write_manifest
from sdc.artefact.writer import canonical, seal
from sdc.errors import ArtefactError, CorruptArtefactError, VersionError

NAMES = st.text("abcdefgh", min_size=1, max_size=8).map(lambda n: f"{n}.bin")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def write(out: Path, files: dict[str, bytes], content: dict, force: bool = False) -> None:
    with staged(out, force) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        write_manifest(folder, content)


@settings(max_examples=40)
@given(st.dictionaries(NAMES, st.binary(max_size=64), max_size=3), st.dictionaries(st.text("xyz"), JSON))
def test_round_trip(files, content):
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch) / "p.sdc", files, content)
        opened = open_artefact(Path(scratch) / "p.sdc")
        assert {k: v for k, v in opened.manifest.items() if k in content} == content
        assert set(opened.manifest["files"]) == set(files)
        assert all((opened.path / name).read_bytes() == data for name, data in files.items())


@settings(max_examples=150)
@given(st.data())
def test_any_flipped_bit_is_seen(data):
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "p.sdc"
        write(out, {"a.bin": bytes(range(40)), "b.bin": b"text"}, {"target": "cpu", "ratio": 1.5})
        path = out / data.draw(st.sampled_from([MANIFEST, "a.bin", "b.bin"]))
        raw = bytearray(path.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(raw)
        with pytest.raises(ArtefactError):
            open_artefact(out)


def test_the_same_content_has_the_same_bytes(tmp_path):
    for name in ("one.sdc", "two.sdc"):
        write(tmp_path / name, {"a.bin": b"a"}, {"b": 1, "a": 2} if name == "one.sdc" else {"a": 2, "b": 1})
    assert (tmp_path / "one.sdc" / MANIFEST).read_bytes() == (tmp_path / "two.sdc" / MANIFEST).read_bytes()


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path / "p.sdc", {"a.bin": b"a"}, {"no JSON": object()})
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_replaced_only_by_force_and_only_if_it_is_a_program(tmp_path):
    out = tmp_path / "p.sdc"
    write(out, {"a.bin": b"old"}, {})
    with pytest.raises(ArtefactError, match="--force"):
        write(out, {"a.bin": b"new"}, {})
    write(out, {"a.bin": b"new"}, {}, force=True)
    assert (open_artefact(out).path / "a.bin").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["p.sdc"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(ArtefactError, match="no compiled program"):
        write(tmp_path / "mine", {}, {}, force=True)


KILLED = """
import sys, time
from pathlib import Path
from sdc.artefact import staged, write_manifest
with staged(Path(sys.argv[1])) as folder:
    (folder / "a.bin").write_bytes(b"a")
    if sys.argv[2] == "after":
        write_manifest(folder, {})
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_compile_leaves_no_program_and_the_next_one_cleans_up(tmp_path, when):
    out = tmp_path / "p.sdc"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(out), when], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"here\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write(out, {"a.bin": b"a"}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["p.sdc"]


def test_what_is_missing_or_strange_is_named(tmp_path):
    out = tmp_path / "p.sdc"
    with pytest.raises(ArtefactError, match="sdc compile"):
        open_artefact(out)
    write(out, {"a.bin": b"a"}, {})
    (out / "b.so").write_bytes(b"code")
    with pytest.raises(CorruptArtefactError, match=r"b\.so"):
        open_artefact(out)
    (out / "b.so").unlink()
    (out / "a.bin").unlink()
    with pytest.raises(CorruptArtefactError, match=r"a\.bin is missing"):
        open_artefact(out)


def test_a_file_that_leads_out_is_refused(tmp_path):
    out, other = tmp_path / "p.sdc", tmp_path / "other.bin"
    write(out, {"a.bin": b"a"}, {})
    other.write_bytes(b"a")
    (out / "a.bin").unlink()
    (out / "a.bin").symlink_to(other)
    with pytest.raises(CorruptArtefactError, match="refused"):
        open_artefact(out)


def test_a_newer_version_says_so_first(tmp_path):
    out = tmp_path / "p.sdc"
    write(out, {}, {})
    (out / MANIFEST).write_bytes(canonical(seal({"format_version": FORMAT_VERSION + 1, "new": True})))
    with pytest.raises(VersionError, match="update sdc"):
        open_artefact(out)
