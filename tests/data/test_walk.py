from __future__ import annotations

import os

import pytest

from ssrseg.data.walk import files_below, list_images
from ssrseg.errors import DataError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder, **options):
    return [path.relative_to(folder).as_posix() for path in list_images(folder, **options).images]


def test_list_images(tmp_path):
    touch(tmp_path, "b.JPG", "a/c.png", "a/d.txt", ".hidden/e.jpg", "._b.jpg", "Z.tiff")
    assert names(tmp_path) == ["Z.tiff", "a/c.png", "b.JPG"]
    assert list_images(tmp_path / "a" / "d.txt").images == [tmp_path / "a" / "d.txt"]
    (tmp_path / "a" / "c.png").unlink()
    with pytest.raises(
        DataError, match=r"a holds no image, but 1 other file \(1 \.txt\)\. .*\.jpg"
    ):
        list_images(tmp_path / "a")
    with pytest.raises(DataError, match=r'aa does not exist\. Did you mean "a"\? Give an image or'):
        list_images(tmp_path / "aa")


def test_photographs_of_all_formats(tmp_path):
    files = [
        f"{n}{suffix}"
        for n, suffix in enumerate(
            (
                ".jfif",
                ".gif",
                ".jp2",
                ".avif",
                ".heic",
                ".HEIF",
                ".webp",
                ".bmp",
                ".TIF",
                ".JPE",
                ".ppm",
            )
        )
    ]
    touch(tmp_path, *files)
    assert sorted(names(tmp_path)) == sorted(files)


def test_what_is_passed_over_is_counted(tmp_path):
    touch(tmp_path, "a.jpg", "a.xmp", "b/b.XMP", "b/.hidden", "README", "c.psd")
    found = list_images(tmp_path)
    assert found.passed_over == {".xmp": 2, "without suffix": 1, ".psd": 1}
    assert str(found) == "4 other files (2 .xmp, 1 without suffix, 1 .psd)"
    assert str(list_images(tmp_path / "a.jpg")) == ""


def test_linked_folders_are_followed_once(tmp_path):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    touch(photos, "train/a.jpg")
    touch(elsewhere, "b.jpg", "deep/c.jpg")
    (photos / "linked").symlink_to(elsewhere)
    (photos / "again").symlink_to(elsewhere)
    (photos / "all").symlink_to(photos / "train")  # twice in one tree
    (photos / "loop").symlink_to(photos)
    (photos / "up").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(photos)
    (elsewhere / "deep" / "self").symlink_to(elsewhere)
    assert names(photos) == ["again/b.jpg", "again/deep/c.jpg", "train/a.jpg"]


def test_linked_files_are_files(tmp_path):
    """Data of version control systems are links to one file for each content."""
    touch(tmp_path, "store/x")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).symlink_to(tmp_path / "store" / "x")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a.jpg", "b.jpg", "gone.jpg"]  # whoever reads it says what is wrong


def test_results_are_not_walked_into(tmp_path):
    touch(tmp_path, "a.jpg", "out/masks/a.png", "b/out/c.jpg")
    assert names(tmp_path, skip=tmp_path / "out") == ["a.jpg", "b/out/c.jpg"]
    assert names(tmp_path, skip=tmp_path / "b" / ".." / "out") == ["a.jpg", "b/out/c.jpg"]
    (tmp_path / "linked").symlink_to(tmp_path / "out")
    assert names(tmp_path, skip=tmp_path / "out") == ["a.jpg", "b/out/c.jpg"]
    assert names(tmp_path, skip=tmp_path / "not there yet")[-1] == "out/masks/a.png"


def test_masks_are_no_photographs(tmp_path):
    """Also those of an earlier run that went elsewhere below the images, and true masks."""
    touch(tmp_path, "a.jpg", "out/masks/a.png", "out/masks/deep/b.png", "out/manifest.csv")
    touch(tmp_path, "out/classes.txt", "out/c.jpg", "masks/of people.jpg", "mine/masks/d.jpg")
    touch(tmp_path, "VOC/SegmentationClass/a.png", "VOC/SegmentationClassAug/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "out" / "masks")
    found = list_images(tmp_path)
    assert names(tmp_path) == ["a.jpg", "masks/of people.jpg", "mine/masks/d.jpg", "out/c.jpg"]
    assert str(found) == (
        f"2 other files (1 .txt, 1 .csv) and 4 folders of masks (such as {found.masks[0]})"
    )
    assert names(tmp_path / "out") == ["c.jpg"]
    assert names(tmp_path / "out" / "masks") == ["a.png", "deep/b.png"]  # asked for
    (tmp_path / "out" / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"holds no image, but .* and 1 folder of masks \(/"):
        list_images(tmp_path / "out")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refuse(path):  # chmod does not stop root
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DataError, match=r"closed cannot be read \(Permission denied\)\. Change its"
    ):
        list(files_below(tmp_path))
