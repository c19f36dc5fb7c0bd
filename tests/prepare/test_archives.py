from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssrseg.errors import DataError, OutputError
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

    def interrupted(opener: Callable[[], io.BytesIO]) -> Iterator[bytes]:
        content = opener().read()
        yield content[:10]
        if len(content) > 1000:
            raise KeyboardInterrupt
        yield content[10:]

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_blocks", interrupted)
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


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_comes_twice(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("top/a.txt", b"one")
            archive.writestr("top/./a.txt", b"other")
    else:
        with tarfile.open(path, "w") as archive:
            for content in (b"one", b"other"):
                entry = tarfile.TarInfo("top/a.txt")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(DataError, match=r"a\.txt' is in it twice"):
        unpack(path, tmp_path / "out", top="top")


@pytest.mark.parametrize("name", ["x.tgz", "x.zip"])
def test_a_bomb(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("top/a.txt", bytes(20_000_000))
    else:
        packed(path, {"top/a.txt": bytes(20_000_000)})
    assert path.stat().st_size < 25_000
    with pytest.raises(DataError, match="unpacks to over 100 times its bytes"):
        unpack(path, tmp_path / "out", top="top")
    assert not (tmp_path / "out" / "a.txt").exists()


def test_a_sparse_file_of_a_petabyte(tmp_path: Path) -> None:
    info = tarfile.TarInfo("top/a.txt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = header[398:410] = b"0" * 11 + b"\0"  # one piece of nothing
    header[483:495] = b"\x80" + (10**15).to_bytes(11, "big")  # the size it has unpacked
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(header) + bytes(10_240 - 512))
    with pytest.raises(DataError, match=r"x\.tar is"):
        unpack(path, tmp_path / "out", top="top")


def test_an_encrypted_archive(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", {"top/a.txt": b"a"})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # of the member, and of the directory at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        unpack(path, tmp_path / "out", top="top")


def test_devices_and_names_of_other_systems(tmp_path: Path) -> None:
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            entry = tarfile.TarInfo("top/device")
            entry.type = kind
            archive.addfile(entry)
        with pytest.raises(DataError, match="is not to be trusted"):
            unpack(tmp_path / "x.tar", tmp_path / "out", top="top")
    for name in ("top/..\\evil", "top/C:evil"):
        path = packed(tmp_path / "x.zip", {name: b"evil"})
        with pytest.raises(DataError, match="would land outside"):
            unpack(path, tmp_path / "out", top="top")


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.tar", {"top/caf\udce9.txt": b"a"})
    assert unpack(path, tmp_path / "out", top="top") == 1
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"caf\xe9.txt"]


def test_published_facts() -> None:
    known = [archives.VOC_TRAINVAL, archives.SBD, archives.COCO_ANNOTATIONS]
    known += archives.COCO_IMAGES.values()
    assert all(each.url.endswith(f"/{each.name}") for each in known)
    assert all(len(bytes.fromhex(each.sha256)) == 32 and each.size > 10**8 for each in known)
    assert len({each.sha256 for each in known}) == 5


def test_a_member_whose_name_is_too_long(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo(f"top/{'n' * 300}")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"text"))
    with pytest.raises(OutputError, match=r"nnn cannot be written \(File name too long\)"):
        unpack(tmp_path / "a.tar", tmp_path / "out", top="top")
