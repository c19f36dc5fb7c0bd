from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssrseg.data.files import atomic_write, user_path, write_json, write_text
from ssrseg.errors import CheckpointError, DataError


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
