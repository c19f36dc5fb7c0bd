"""The archives that VOC 2012, SBD and COCO 2014 come in, and how they are unpacked.

Sizes and checksums are those that other projects publish, so that a file from any server can be
held against them: TensorFlow Datasets (``url_checksums/voc.txt``, ``coco.txt``) for VOC and COCO,
torchvision (``prototype/datasets/_builtin/sbd.py``) for SBD, whose size is the one torchvision's
own download shows.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ssrseg.data.files import atomic_write, writing
from ssrseg.errors import DataError
from ssrseg.prepare.download import Progress


@dataclass(frozen=True)
class Archive:
    """A file to fetch and unpack.

    Attributes:
        url: Official address; empty = only for registered users.
        sha256: The official servers have no https, or none that a client accepts.
        top: Folder inside the archive that is unpacked.
        wanted: Beginnings of the paths below ``top`` that are; empty = all.
    """

    name: str
    url: str
    size: int
    sha256: str
    top: str
    wanted: tuple[str, ...] = ()


VOC_TRAINVAL = Archive(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    1_999_639_040,
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    "VOCdevkit/VOC2012",
)
VOC_TEST = Archive(  # the server gives it to registered users; nobody publishes its checksum
    "VOC2012test.tar", "", 0, "", "VOCdevkit/VOC2012", ("ImageSets/Segmentation/", "JPEGImages/")
)
SBD = Archive(  # its images are VOC's, its instance masks are not needed
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    1_419_539_633,
    "6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
    "benchmark_RELEASE/dataset",
    ("cls/", "train.txt", "val.txt"),
)
COCO_ANNOTATIONS = Archive(
    "annotations_trainval2014.zip",
    "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    252_872_794,
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    "annotations",
    ("instances_",),
)
COCO_IMAGES = {
    "train": Archive(
        "train2014.zip",
        "http://images.cocodataset.org/zips/train2014.zip",
        13_510_573_713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        "train2014",
    ),
    "val": Archive(
        "val2014.zip",
        "http://images.cocodataset.org/zips/val2014.zip",
        6_645_013_297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        "val2014",
    ),
}

_BOMB = 100  # bytes out of each byte in; photographs and masks stay below 20
_BLOCK = 1 << 20


def unpack(
    path: Path,
    folder: Path,
    *,
    top: str,
    wanted: tuple[str, ...] = (),
    progress: Progress = lambda _: None,
) -> int:
    """Unpack regular files below ``top``; those that lie there already with their size are kept.

    Each file appears whole or not at all, so an interrupted call goes on where it stopped.

    Args:
        path: Tar (compressed or not) or zip.
        folder: What ``top`` becomes.
        top: Folder inside the archive.
        wanted: Beginnings of the paths below ``top``; empty = all.
        progress: Told how many bytes of the archive have been read.

    Returns:
        How many files were written.

    Raises:
        DataError: If the archive is damaged or encrypted, holds nothing below ``top``, or is not to
            be trusted: a member would land outside the folder, comes twice, or has no end.
        OutputError: If the disk takes no more, or not a file of such a name.
    """
    members = _zip_members if path.suffix == ".zip" else _tar_members
    written = 0
    seen: set[PurePosixPath] = set()
    room = _BOMB * path.stat().st_size + _BLOCK
    for name, size, position, opener in _checked(path, members(path, folder)):
        progress(position)
        below = _below(path, name, top)
        if below is None or (wanted and not below.as_posix().startswith(wanted)):
            continue
        if below in seen:
            raise _distrusted(path, f"'{name}' is in it twice")
        seen.add(below)
        target = folder / below
        with writing(target):  # no file can have some names
            is_there = target.is_file() and target.stat().st_size == size
        if is_there:
            continue
        with atomic_write(target) as temporary, temporary.open("wb") as file:
            for block in _checked(path, _blocks(opener)):
                room -= len(block)
                if room < 0:
                    raise _distrusted(path, f"'{name}' unpacks to over {_BOMB} times its bytes")
                file.write(block)
        written += 1
    if not seen:
        raise DataError(f"{path} holds no file below {top}/. Is it another archive of that name?")
    return written


_Member = tuple[str, int, int, Callable[[], Any]]  # name, size, position, opener
_Each = TypeVar("_Each")


def _checked(path: Path, parts: Iterator[_Each]) -> Iterator[_Each]:
    """What comes out of an archive; whatever the libraries say of its damages, as DataError."""
    try:
        yield from parts
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "password" in reason:
            raise DataError(f"{path} is encrypted. Unpack it by hand.") from error
        raise DataError(f"{path} is damaged or cut short ({reason}). Fetch it again.") from error


def _tar_members(path: Path, folder: Path) -> Iterator[_Member]:
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as archive:
        for member in archive:
            try:
                tarfile.data_filter(member, str(folder))
            except tarfile.FilterError as error:
                raise _distrusted(path, str(error)) from error
            if member.isfile():
                yield member.name, member.size, raw.tell(), partial(archive.extractfile, member)


def _zip_members(path: Path, _: Path) -> Iterator[_Member]:
    whole = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                place = (member.file_size, min(member.header_offset, whole))
                yield member.filename, *place, partial(archive.open, member)


def _blocks(opener: Callable[[], Any]) -> Iterator[bytes]:
    with opener() as source:
        while block := source.read(_BLOCK):
            yield block


def _below(path: Path, name: str, top: str) -> PurePosixPath | None:
    """The path below ``top``, None if it is elsewhere in the archive."""
    member = PurePosixPath(name)
    # a backslash or a colon leads elsewhere on Windows
    if member.is_absolute() or ".." in member.parts or set(name) & set("\\:\0"):
        raise _distrusted(path, f"'{name}' would land outside the folder")
    return member.relative_to(top) if member.is_relative_to(top) else None


def _distrusted(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not to be trusted: {reason}. Nothing more of it was unpacked; fetch it from its"
        " official server."
    )
