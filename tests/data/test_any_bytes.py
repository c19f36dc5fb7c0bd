"""Whatever bytes a file holds, its reader returns a value or raises one of our own errors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssrseg.data.classes import read_classes_txt, read_classes_yaml
from ssrseg.data.coco import instances_by_image, read_instances, read_label_table
from ssrseg.data.coco_masks import semantic_mask
from ssrseg.data.label_files.check import check_rows
from ssrseg.data.label_files.table import read_table
from ssrseg.data.open import open_labelled
from ssrseg.data.text import is_unprintable
from ssrseg.data.voc import read_objects
from ssrseg.errors import SSRError

few = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

PIECES = [
    b"", b"\n", b"\r", b",", b";", b"\t", b'"', b"'", b"#", b"[", b"]", b"{", b"}", b"<", b">",
    b"&", b":", b"- ", b"*a", b"&a ", b"!!str", b"?", b"|", b"%", b"..", b"/", b"\\", b"\x00",
    b"\x1b[31m", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\xa0", b"\xed\xa0\x80", b"none",
    b"nan", b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"true", b"9" * 5000, 
    b"[" * 3000, b"<a>" * 3000, b"images/a.jpg", b"dog", b"DOG", b"cat;dog", b"\\ud800",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid file with pieces cut out, doubled, moved and put in."""
    found = whole
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(found)))
        stop = min(len(found), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from([*PIECES, found[start:stop] * 2]) | st.binary(max_size=6))
        found = found[:start] + piece + found[stop:]
    return found


def bytes_like(whole: bytes) -> st.SearchStrategy[bytes]:
    pieces = st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join)
    return mutated(whole) | mutated(whole) | pieces | st.binary(max_size=60)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        for image in ("a.jpg", "b.JPG"):
            (root / "images" / image).touch()
        yield root


def only_our_errors(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read(path)
    except SSRError as error:
        assert not any(map(is_unprintable, str(error).replace("\n", "")))
        assert str(path) in str(error) or str(path.parent) in str(error)
        assert len(str(error)) < 20_000


LABELS = b'image,labels\nimages/a.jpg,dog;"cat"\nb.jpg,none\n'
YAML = b'dog: [puppy, "hound"]\ncat:\n"red car": automobile\n'
XML = b'<?xml version="1.0"?><annotation><object><name>dog</name></object></annotation>'


@few
@given(content=bytes_like(LABELS))
def test_labels_csv(folder: Path, content: bytes) -> None:
    def read(path: Path) -> None:
        check_rows(read_table(path), path.parent, None)

    only_our_errors(read, folder / "labels.csv", content)


@few
@given(content=bytes_like(b"dog\n# comment\nred car  # fast\ncaf\xc3\xa9\n"))
def test_classes_txt(folder: Path, content: bytes) -> None:
    only_our_errors(read_classes_txt, folder / "classes.txt", content)


@few
@given(content=bytes_like(YAML))
def test_classes_yaml(folder: Path, content: bytes) -> None:
    only_our_errors(read_classes_yaml, folder / "classes.yaml", content)


@few
@given(content=bytes_like(XML))
def test_annotations(folder: Path, content: bytes) -> None:
    only_our_errors(read_objects, folder / "a.xml", content)


@few
@given(content=bytes_like(b"a\nb\n"))
def test_lists(folder: Path, content: bytes) -> None:
    (folder / "labels.csv").write_bytes(LABELS)
    (folder / "classes.txt").unlink(missing_ok=True)
    (folder / "classes.yaml").unlink(missing_ok=True)
    only_our_errors(lambda path: open_labelled(folder, split="few"), folder / "few.txt", content)


TABLE: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [
        {"id": 1, "file_name": "p.jpg", "height": 8, "width": 9},
        {"id": 2, "file_name": "x/q.jpg", "height": 4, "width": 4},
    ],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 9, "area": 8,
         "segmentation": [[1, 1, 5, 1, 5, 5.5]]},
        {"id": 6, "image_id": 1, "category_id": 5, "area": None,
         "segmentation": {"size": [8, 9], "counts": [10, 20, 42]}},
        {"id": 7, "image_id": 2, "category_id": 5, "area": 3.5,
         "segmentation": {"size": [4, 4], "counts": "0`0"}},
    ],
    "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
}  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**4000, 2**31, 2**63, -1, 1e300, "p.jpg", "../p", "\x1b[m", "", "ooo", 0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """An instances file with a few values of other types, removed or doubled."""
    table = json.loads(json.dumps(TABLE))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = table
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], (dict, list)) and draw(st.integers(0, 5)):
                at = at[key]
                continue
            change = draw(st.integers(0, 5))
            if change == 0:
                del at[key]
            elif change == 1 and isinstance(at, list):
                at.append(at[key])
            else:
                at[key] = draw(VALUES)
            break
    return table


def read_with_masks(path: Path) -> None:
    read_label_table(path)
    for image in instances_by_image(read_instances(path)):
        semantic_mask(image)


@few
@given(content=bytes_like(json.dumps(TABLE).encode()))
def test_instances_of_any_bytes(folder: Path, content: bytes) -> None:
    only_our_errors(read_with_masks, folder / "instances_train2014.json", content)


@few
@given(table=tables())
def test_instances_of_any_values(folder: Path, table: Any) -> None:
    only_our_errors(read_with_masks, folder / "instances_val2014.json", json.dumps(table).encode())


def test_the_valid_files_are_read(folder: Path) -> None:
    path = folder / "instances_x.json"
    path.write_text(json.dumps(TABLE))
    read_with_masks(path)
    assert read_label_table(path).labels == {"p.jpg": (0, 1), "x/q.jpg": (0,)}
