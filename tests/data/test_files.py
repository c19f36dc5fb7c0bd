from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssrseg.data.files import (
    atomic_write,
    content_digest,
    only_writer,
    scratch_folder,
    sweep,
    user_path,
    write_json,
    write_text,
)
from ssrseg.errors import CheckpointError, DataError, OutputError


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_many_threads_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_json(path, [number] * 1000), range(64)))
    found = json.loads(path.read_text())
    assert len(found) == 1000
    assert len(set(found)) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_others_may_read_what_they_may_read_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "ours") as temporary:
        temporary.touch(mode=0o600)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"miou": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_holds_names_that_are_not_utf_8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"folder": "caf\udce9", "é": "猫"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"folder": "caf\udce9", "é": "猫"} and "猫" in text


def test_a_path_as_somebody_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/at/home")
    assert user_path("~/p.png", "an image") == Path("/at/home/p.png")
    assert user_path(Path("~", "p.png"), "an image") == Path("/at/home/p.png")
    assert user_path("~nobody-at-all/p.png", "an image") == Path("~nobody-at-all/p.png")
    assert user_path("a ~/p.png", "an image") == Path("a ~/p.png")
    for empty in ("", "  "):
        with pytest.raises(DataError, match=r"^the path of an image is empty"):
            user_path(empty, "an image")
    with pytest.raises(CheckpointError, match=r"a model is None, but text or a pathlib\.Path"):
        user_path(None, "a model", CheckpointError)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process; it prints when it is ready."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


HOLD = """
import sys
from pathlib import Path
from ssrseg.data.files import only_writer
sys.argv[1:] = ["masks", "--out", sys.argv[1]]
with only_writer(Path(sys.argv[3])):
    print("ready", flush=True)
    sys.stdin.read()
"""


WRITE = """
import sys
from pathlib import Path
from ssrseg.data.files import atomic_write
with atomic_write(Path(sys.argv[1]) / "c.txt") as temporary:
    temporary.touch()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with child(HOLD, out) as other:
        assert other.stdout.readline() == "ready\n"
        said = rf"written by process {other.pid} on .* since \d.*\(ssrseg masks --out .*\)\. Wait"
        with pytest.raises(OutputError, match=said), only_writer(out):
            raise AssertionError
        other.communicate("")
    with only_writer(out):  # threads of one process too
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(lambda: only_writer(out).__enter__()).exception()
        assert isinstance(found, OutputError)
        assert f"process {os.getpid()} " in str(found)
    assert list(out.iterdir()) == []


def test_a_killed_writer_holds_nothing_up(tmp_path: Path) -> None:
    with child(HOLD, tmp_path) as other:
        assert other.stdout.readline() == "ready\n"
        other.kill()
    assert (tmp_path / ".writer").exists()
    with only_writer(tmp_path):
        assert json.loads((tmp_path / ".writer").read_text())["pid"] == os.getpid()


@pytest.mark.skipif(os.name == "nt", reason="Windows does not fork")
def test_loaders_that_outlive_a_killed_writer_are_waited_for(tmp_path: Path) -> None:
    fork = HOLD.replace(
        "    print(",
        "    import os, time\n    if os.fork() == 0: time.sleep(1.5), os._exit(0)\n    print(",
    )
    with child(fork, tmp_path) as other:
        assert other.stdout.readline() == "ready\n"
        other.kill()
    start = time.monotonic()
    with only_writer(tmp_path):
        assert time.monotonic() - start < 20


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "x"}', '{"pid": 1e999, "host": []}', "["])
def test_whoever_holds_a_folder_is_only_said(tmp_path: Path, content: str) -> None:
    with only_writer(tmp_path):
        (tmp_path / ".writer").write_text(content)
        with pytest.raises(OutputError, match="is being written by"), only_writer(tmp_path):
            raise AssertionError


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    kill = """
import os, sys
from pathlib import Path
from ssrseg.data.files import atomic_write
with atomic_write(Path(sys.argv[1]) / "deep" / "checkpoint.safetensors") as temporary:
    temporary.write_bytes(b"half")
    os._exit(9)
"""
    with child(kill, tmp_path):
        pass
    (left,) = (tmp_path / "deep").iterdir()
    own = [tmp_path / ".tmp", tmp_path / "a.tmp.png", tmp_path / ".notes.1-2.tmp.png"]
    for path in own:
        path.write_text("a person's")
    host, process, token = left.name.split(".")[2].split("-")
    assert process.isdecimal() and len(token) == 8
    elsewhere = left.with_name(left.name.replace(host, "0" * 8))
    elsewhere.write_text("of another machine, perhaps still written")
    with only_writer(tmp_path):
        assert not left.exists()
        assert elsewhere.exists()
        os.utime(elsewhere, (0, 0))
        sweep(tmp_path)
        assert not elsewhere.exists()
        with atomic_write(tmp_path / "deep" / "b.txt") as temporary:
            temporary.write_text("still written")
            sweep(tmp_path)  # such as of another thread that begins
            assert temporary.exists()
    with child(WRITE, tmp_path) as other:
        assert other.stdout.readline() == "ready\n"
        sweep(tmp_path)  # of another process that goes on
        assert [path for path in tmp_path.iterdir() if path.name.endswith(".tmp.txt")]
        other.communicate("")
    assert (tmp_path / "c.txt").exists()
    assert all(path.exists() for path in own)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell whether a process lives")
def test_temporary_folders_of_killed_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as name:
        _, host, process, *_ = Path(name).name.split("-")
        assert process == str(os.getpid())
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        killed = tmp_path / f"ssrseg-{host}-{gone.pid}-{8 * '0'}-abc"
        before_us = tmp_path / f"ssrseg-{host}-{process}-{8 * '0'}-abc"  # such as 1, in a container
        elsewhere = tmp_path / f"ssrseg-{8 * '0'}-{gone.pid}-{8 * '0'}-abc"
        other = tmp_path / "ssrseg-results"
        for folder in (killed, before_us, elsewhere, other):
            (folder / "images").mkdir(parents=True)
        with scratch_folder() as second:
            assert Path(name).is_dir() and Path(second).is_dir()
            assert not killed.exists() and not before_us.exists()
            assert elsewhere.is_dir() and other.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [elsewhere.name, other.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    write = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from ssrseg.data.files import atomic_write, write_text
from ssrseg.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
folder = Path(sys.argv[1])
for name in ("a.txt", "a.npy"):
    try:
        if name == "a.txt":
            write_text(folder / name, "x" * 5000)
        with atomic_write(folder / name) as temporary:
            np.save(temporary, np.zeros(5000))  # its OSError has no number
    except OutputError as error:
        print(error, flush=True)
"""
    with child(write, tmp_path) as other:
        said = other.stdout.read().splitlines()
    assert len(said) == 2
    for name, line in zip(("a.txt", "a.npy"), said, strict=True):
        assert line.startswith(f"{tmp_path / name} cannot be written (")
        assert "Make room" in line and line.endswith("goes on from there.")
    assert list(tmp_path.iterdir()) == []


def test_data_are_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    write_text(tmp_path / "a", "text")
    assert done == ["fsync", "replace"]


def test_a_name_of_a_file_is_what_is_in_it(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (content_digest(tmp_path / name) for name in "abc")
    assert a == b != c
    assert len(a) == 16
    with pytest.raises(DataError, match="nothing does not exist"):
        content_digest(tmp_path / "nothing")


def test_many_writers_one_after_the_other(tmp_path: Path) -> None:
    """Also where one takes the lock file away while another one opens it."""
    code = """
import sys, time
from pathlib import Path
from ssrseg.data.files import only_writer
from ssrseg.errors import OutputError
folder, done = Path(sys.argv[1]), 0
while done < 25:
    try:
        with only_writer(folder):
            (folder / "alone").touch(exist_ok=False)
            time.sleep(0.001)
            (folder / "alone").unlink()
        done += 1
    except OutputError as error:
        assert "is being written" in str(error), error
"""
    others = [child(code, tmp_path) for _ in range(3)]
    for other in others:
        other.communicate()
        assert other.returncode == 0
    assert list(tmp_path.iterdir()) == []
