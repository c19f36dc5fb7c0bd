from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ssrseg.errors import DataError
from ssrseg.prepare import archives
from ssrseg.prepare.archives import unpack

FILES = {
    "top/a.txt": b"a" * 100,
    "top/deep/b.txt": b"b" * 5000,
    "top/deep/c.txt": b"",
    "other/d.txt": b"d",
}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        folder = tarfile.TarInfo("top")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_what_is_wanted_below_the_top(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name, FILES)
    told: list[int] = []
    assert unpack(path, tmp_path / "all", top="top", progress=told.append) == 3
    assert contents(tmp_path / "all") == {
        "a.txt": FILES["top/a.txt"],
        "deep/b.txt": FILES["top/deep/b.txt"],
        "deep/c.txt": b"",
    }
    assert told == sorted(told)
    assert told[-1] <= path.stat().st_size
    assert unpack(path, tmp_path / "some", top="top", wanted=("a.", "deep/c")) == 2
    assert set(contents(tmp_path / "some")) == {"a.txt", "deep/c.txt"}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_what_is_there_is_kept_and_what_is_broken_is_not(tmp_path: Path, name: str) -> None:
    path, out = packed(tmp_path / name, FILES), tmp_path / "out"
    unpack(path, out, top="top")
    first = (out / "a.txt").stat().st_mtime_ns
    (out / "deep" / "b.txt").write_bytes(b"half")
    (out / "deep" / "c.txt").unlink()
    assert unpack(path, out, top="top") == 2
    assert (out / "a.txt").stat().st_mtime_ns == first
    assert contents(out)["deep/b.txt"] == FILES["top/deep/b.txt"]


def test_an_interrupted_call_leaves_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path / "x.tar", FILES)

    def interrupt(source: io.BytesIO, file: io.BytesIO) -> None:
        content = source.read()
        file.write(content[:10])
        if len(content) > 1000:
            raise KeyboardInterrupt
        file.write(content[10:])

    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, tmp_path / "out", top="top")
    assert contents(tmp_path / "out") == {"a.txt": FILES["top/a.txt"]}
    assert unpack(path, tmp_path / "out", top="top") == 2


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
@pytest.mark.parametrize("evil", ["top/../../evil.txt", "../evil.txt"])
def test_nothing_lands_outside(tmp_path: Path, name: str, evil: str) -> None:
    path = packed(tmp_path / name, {"top/a.txt": b"a", evil: b"evil", "top/z.txt": b"z"})
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"is not to be trusted: .*evil"):
        unpack(path, tmp_path / "in" / "out", top="top")
    assert set(contents(tmp_path)) == {name, "in/out/a.txt"}


def test_absolute_names_and_links(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", {"/evil.txt": b"evil"})
    with pytest.raises(DataError, match="is not to be trusted"):
        unpack(path, tmp_path / "out", top="top")
    for target in ("../../evil", "/evil"):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            link = tarfile.TarInfo("top/link")
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        with pytest.raises(DataError, match="is not to be trusted"):
            unpack(tmp_path / "x.tar", tmp_path / "out", top="top")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name, {"top/a.txt": bytes(range(256)) * 400})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"nothing of the kind" * 100, b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is damaged or cut short"):
            unpack(path, tmp_path / "out", top="top")
    assert not (tmp_path / "out" / "a.txt").exists()


def test_another_archive_of_that_name(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.tar", {"other/d.txt": b"d"})
    with pytest.raises(DataError, match="holds no file below top/"):
        unpack(path, tmp_path / "out", top="top")


def test_published_facts() -> None:
    known = [archives.VOC_TRAINVAL, archives.SBD, archives.COCO_ANNOTATIONS]
    known += archives.COCO_IMAGES.values()
    assert all(each.url.endswith(f"/{each.name}") for each in known)
    assert all(len(bytes.fromhex(each.sha256)) == 32 and each.size > 10**8 for each in known)
    assert len({each.sha256 for each in known}) == 5
