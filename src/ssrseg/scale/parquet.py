"""Parquet files with images and labels, as the hub's data sets of images are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from ssrseg.data.naming import sample_name
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import DataError, PackageError
from ssrseg.scale.place import reaching, store_of
from ssrseg.scale.words import Labels, label_words

_ROWS = 64  # that are in memory together
_LABELS = ("labels", "label", "classes", "class")
_NAMES = ("name", "key", "__key__", "file_name", "image_id", "id")
_IMAGES = ("image", "img", "photo", "jpg", "jpeg", "png", "webp")


def rows_of_parquet(
    file: str, *, labels_only: bool = False
) -> Iterator[tuple[str, Labels, bytes, str]]:
    """Name, labels, content and suffix of every row, some rows at a time.

    The image is a column of bytes, or of bytes and path as ``datasets`` writes them. A name is that
    of a column such as ``name`` or ``key``, else the path beside the bytes, else file and row.

    Args:
        labels_only: Leave the contents empty.

    Raises:
        DataError: If it is damaged, or has no image.
        PackageError: If pyarrow is not installed.
    """
    with _opened(file) as table:
        columns = table.schema_arrow.names
        image = _first(_IMAGES, columns, file, "image")
        labels = next((each for each in _LABELS if each in columns), None)
        named = next((each for each in _NAMES if each in columns), None)
        words = _class_names(table.schema_arrow, labels)
        wanted = [each for each in (labels, named) if each] + ([] if labels_only else [image])
        row = 0
        for batch in table.iter_batches(_ROWS, columns=wanted):
            for cells in batch.to_pylist():
                content, path = _content(cells.get(image), f"{file}, row {row}", labels_only)
                name = cells.get(named) if named else None
                name = name if name is not None else path and sample_name(path)
                name = str(name) if name else f"{PurePosixPath(file).stem}/{row:08d}"
                suffix = PurePosixPath(path or "").suffix.lower()
                found = label_words(cells.get(labels)) if labels else ()
                if words:
                    found = tuple(_word(each, words, f"{file}, row {row}") for each in found)
                yield _bare(name), found, content, suffix if suffix in SUFFIXES else ".jpg"
                row += 1


def classes_of_parquet(file: str) -> tuple[str, ...]:
    """Names of the classes, if the file says them as ``datasets`` does."""
    with _opened(file) as table:
        columns = table.schema_arrow.names
        labels = next((each for each in _LABELS if each in columns), None)
        return tuple(_class_names(table.schema_arrow, labels))


@contextmanager
def _opened(file: str) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise PackageError(
            f"{file} needs the package pyarrow, which is not installed: pip install"
            " 'ssrseg[parquet]'."
        ) from error
    fs, path = store_of(file)
    with reaching(file), fs.open(path, "rb") as stream:
        try:
            with ParquetFile(stream) as table:
                yield table
        except pyarrow.ArrowException as error:
            raise DataError(
                f"{file} is damaged, or not Parquet ({' '.join(str(error).split())}). Copy it"
                " again."
            ) from error


def _first(wanted: Sequence[str], columns: Sequence[str], file: str, what: str) -> str:
    found = next((each for each in wanted if each in columns), None)
    if found is None:
        raise DataError(
            f"{file} has no column with an {what}: it has {', '.join(columns)}. Call it"
            f" {wanted[0]}."
        )
    return found


def _content(cell: Any, where: str, labels_only: bool) -> tuple[bytes, str | None]:
    """Content and path of an image."""
    if labels_only:
        return b"", None
    path = None
    if isinstance(cell, dict):
        cell, path = cell.get("bytes"), cell.get("path")
    if not isinstance(cell, bytes):
        raise DataError(f"{where} holds no image, its bytes are missing. Write them into the file.")
    return cell, path


def _class_names(schema: Any, labels: str | None) -> list[str]:
    """What ``datasets`` says beside the columns of the names behind numbers."""
    said = (schema.metadata or {}).get(b"huggingface")
    if said is None or labels is None:
        return []
    try:
        feature = json.loads(said)["info"]["features"][labels]
        feature = feature.get("feature", feature)  # of a list of labels
        return [str(name) for name in feature.get("names", ())]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _word(label: str | int, words: Sequence[str], where: str) -> str | int:
    if not isinstance(label, int):
        return label
    if not 0 <= label < len(words):
        raise DataError(f"{where} has the label {label}, but there are {len(words)} classes.")
    return words[label]


def _bare(name: str) -> str:
    """A name without the suffix of an image."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name
