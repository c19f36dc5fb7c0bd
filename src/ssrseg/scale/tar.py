"""Tar files in the layout of WebDataset: members of one key stand together."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import DataError
from ssrseg.safe_json import JsonError, parse_json
from ssrseg.scale.place import reaching, store_of
from ssrseg.scale.words import Labels, label_words

_LABELS = ("cls", "txt", "json")
_MOST = 1 << 20  # bytes of the labels of one image


def images_of_tar(
    file: str, *, labelled: bool, labels_only: bool = False
) -> Iterator[tuple[str, Labels, bytes, str]]:
    """Key, labels, content and suffix of every image of a tar file, which is read once.

    Args:
        labelled: Every image has to have labels, even if they say ``none``.
        labels_only: Leave the contents empty.

    Raises:
        DataError: If it is damaged or no tar file, or an image has no labels or they no image.
    """
    fs, path = store_of(file)
    with reaching(file), fs.open(path, "rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:*") as archive:
                members = _members(archive, labels_only)
                for key, parts in groupby(members, lambda member: member[0]):
                    contents = {extension: content for _, extension, content in parts}
                    found = _image(file, key, contents, labelled=labelled)
                    if found is not None:
                        yield found
                _refuse_early_end(archive)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(
                f"{file} is damaged, or no tar file ({error}). Copy it again, or pack it anew."
            ) from error


def _members(archive: tarfile.TarFile, labels_only: bool) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of what is an image or labels.

    A key is the path up to the first dot behind the last slash.
    """
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # they would be kept for the whole file
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        stem, _, extension = name.partition(".")
        is_image = f".{extension}".lower().endswith(SUFFIXES)
        if member.isfile() and stem and (is_image or extension.lower() in _LABELS):
            opened = archive.extractfile(member)
            assert opened is not None  # a file
            content = b"" if is_image and labels_only else opened.read(-1 if is_image else _MOST)
            if not (is_image and labels_only) and len(content) < min(member.size, _MOST):
                raise tarfile.ReadError(f"{member.name} is cut short")
            yield f"{folder}{slash}{stem}", extension.lower(), content


def _refuse_early_end(archive: tarfile.TarFile) -> None:
    """Raise ReadError where the file ends without its mark, or goes on behind a damaged header.

    The library takes both for the end.
    """
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)  # where the last header was looked for
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short, or a header in it is damaged")


def _image(
    file: str, key: str, parts: dict[str, bytes], *, labelled: bool
) -> tuple[str, Labels, bytes, str] | None:
    """The image of a key with its labels; None if there is none."""
    images = [each for each in parts if f".{each}".endswith(SUFFIXES)]
    said = next((each for each in _LABELS if each in parts), None)
    if not images:
        if labelled and said is not None and said != "json":  # JSON may be about anything
            raise DataError(
                f"{file}: {key}.{said} has no picture beside it. What belongs to one key has to"
                " stand together: pack the file anew, sorted by name."
            )
        return None
    plain = [each for each in images if "." not in each] or images
    if plain[1:]:
        names = ", ".join(f"{key}.{each}" for each in plain)
        raise DataError(
            f"{file}: {names} are pictures of one key, which goes to the first dot of a name. Name"
            " them otherwise, or leave all but one out."
        )
    (image,) = plain
    if labelled and said is None:
        raise DataError(
            f"{file}: {key}.{image} has no labels beside it. Write {key}.cls or .txt (none = no"
            " class), and keep the two together in the file."
        )
    labels = () if said is None else label_words(_value(parts[said], f"{file}: {key}.{said}"))
    return key, labels, parts[image], f".{image.rpartition('.')[2]}"


def _value(content: bytes, where: str) -> Any:
    if not where.endswith(".json"):
        return content
    try:
        return parse_json(content)
    except JsonError as error:
        raise DataError(
            f"{where} is not JSON: {error}. Mend it, and pack the file anew."
        ) from error
