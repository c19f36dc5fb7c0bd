from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_tiny import tiny_voc_sbd, write_sbd_mask
from scipy.io import loadmat, savemat

from ssrseg.errors import DataError
from ssrseg.prepare.sbd import SBD_FOLDERS, find_sbd, read_sbd, train_aug


def test_the_list_is_the_union_without_val() -> None:
    assert train_aug(["b", "a"], ["c", "d"], ["d", "f", "a", "c", "e"]) == ["a", "b", "e", "f"]


def test_a_mask_in_sbds_own_structure(tmp_path: Path) -> None:
    ids = np.zeros((7, 9), np.uint8)
    ids[1:4, 2:5] = 20
    ids[5:, :3] = 3
    path = tmp_path / "2008_000002.mat"
    write_sbd_mask(path, ids)
    stored = loadmat(path)["GTcls"]
    assert stored.shape == (1, 1)
    assert set(stored.dtype.names) == {"Boundaries", "Segmentation", "CategoriesPresent"}
    assert stored["CategoriesPresent"][0, 0].ravel().tolist() == [3, 20]
    found = read_sbd(path)
    assert found.numpy().dtype == np.uint8
    assert np.array_equal(found.numpy(), ids)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"GTcls": {"Segmentation": np.full((2, 2), 21)}}, "class ids from 21 to 21"),
        ({"GTcls": {"Segmentation": np.full((2, 2), -1)}}, "class ids from -1 to -1"),
        ({"GTcls": {"Segmentation": np.zeros((2, 2))}}, "no table of integers"),
        ({"GTcls": {"Segmentation": np.zeros((2, 2, 3), np.uint8)}}, "no table of integers"),
        ({"GTcls": {"Boundaries": np.zeros((2, 2))}}, "Segmentation"),
        ({"GTcls": np.zeros((2, 2), np.uint8)}, "no GTcls"),
        ({"GTcls": {"Segmentation": np.zeros((0, 2), np.uint8)}}, "is empty"),
        ({"GTinst": {"Segmentation": np.zeros((2, 2), np.uint8)}}, "GTcls"),
    ],
)
def test_other_matlab_files(tmp_path: Path, content: dict[str, object], reason: str) -> None:
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(DataError, match=rf"a\.mat is no mask of SBD \(.*{reason}"):
        read_sbd(tmp_path / "a.mat")


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32])
@pytest.mark.parametrize("packed", [False, True])
def test_integers_of_every_kind(tmp_path: Path, kind: type, packed: bool) -> None:
    ids = np.arange(15, dtype=kind).reshape(3, 5)
    content = {"x": np.zeros(3), "GTcls": {"a": "text", "Segmentation": ids, "b": {"c": ids}}}
    savemat(tmp_path / "a.mat", content, do_compression=packed)
    assert np.array_equal(read_sbd(tmp_path / "a.mat").numpy(), ids)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    write_sbd_mask(path, np.ones((40, 50), np.uint8))
    whole = path.read_bytes()
    for damaged in (b"", b"no matlab at all" * 20, whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is no mask of SBD"):
            read_sbd(path)
    with pytest.raises(DataError, match="is no mask of SBD"):
        read_sbd(tmp_path / "absent.mat")


@pytest.mark.parametrize("home", SBD_FOLDERS)
def test_it_is_found_where_people_unpack_it(tmp_path: Path, home: str) -> None:
    root = tmp_path / "VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    assert find_sbd(root) is None
    sbd = root / home
    (sbd / "cls").mkdir(parents=True)
    (sbd / "train.txt").touch()
    assert find_sbd(root) is None
    (sbd / "val.txt").touch()
    assert find_sbd(root) == sbd


def test_the_tiny_one_is_as_described(tmp_path: Path) -> None:
    root = tiny_voc_sbd(tmp_path / "voc", tmp_path / "voc" / "SBD")
    assert find_sbd(root) == root / "SBD"
    assert int(read_sbd(root / "SBD" / "cls" / "2007_000001.mat").max()) == 0
    assert int(read_sbd(root / "SBD" / "cls" / "2007_000006.mat").max()) == 3  # a bird
