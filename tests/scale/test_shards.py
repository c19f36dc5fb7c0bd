"""Shards: which images each has, and that merged ones are what one run would have left."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from command import exit_code
from folder_files import files
from hypothesis import given
from hypothesis import strategies as st
from make_tiny import tiny_folder
from PIL import Image
from tiny_encoders import tiny_config

from ssrseg import mask_folder
from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.stamped_mask import write_mask
from ssrseg.errors import ConfigError, DataError
from ssrseg.pseudo_masks import make_masks
from ssrseg.scale.making import ShardResult, is_merged, make_shard
from ssrseg.scale.merging import merge_shards
from ssrseg.scale.place import place
from ssrseg.scale.record import read_record, write_record
from ssrseg.scale.shard import Shard, number_of, parse_shard
from ssrseg.scale.sources import Listed, listed
from ssrseg.scale.work import FromLabels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Twelve images, one of them no image."""
    root = tiny_folder(tmp_path_factory.mktemp("shards") / "data", n=12)
    found = open_labelled(root)
    found.samples[4].image.write_bytes(b"no image")
    return found


@pytest.fixture(scope="module")
def config(clip_dir: Path, dino_dir: Path) -> Config:
    # photographs seen alone: which ones share a batch depends on the shard
    return tiny_config(clip_dir, dino_dir, "cam.mode=clip", "data.patches=1")


@pytest.fixture(scope="module")
def work(config: Config) -> FromLabels:
    return FromLabels(config)


@pytest.fixture(scope="module")
def source(data: LabelledImages) -> Listed:
    return listed(data)


def make(work: FromLabels, source: Listed, out: Path, of: int, *numbers: int) -> None:
    for number in numbers or range(1, of + 1):
        make_one(work, source, Shard(number, of), out)


def make_one(work: FromLabels, source: Listed, shard: Shard, out: Path) -> ShardResult:
    photographs = source.part(shard).read()
    made_for = work.digest(source.about.vocabulary)
    return make_shard(
        work, source.about, shard, photographs, place(out), made_for=made_for, trusting=False
    )


def test_the_shard_of_a_name_stays_for_ever() -> None:
    names = ("a", "2007_000032", "folder/größe", "byte \udcff")
    assert [number_of(name, 1_000_000) for name in names] == [383344, 837458, 115941, 755235]
    assert [number_of(name, 8) for name in names] == [8, 2, 5, 3]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True), st.integers(1, 99))
def test_every_image_is_in_exactly_one_shard(names: list[str], of: int) -> None:
    numbers = [number_of(name, of) for name in names]
    assert all(1 <= number <= of for number in numbers)
    assert numbers == [number_of(name, of) for name in reversed(names)][::-1]
    parts = [part for job in range(1, 8) for part in Shard(job, 7).parts_of(of)]
    assert sorted(part.number for part in parts) == list(range(1, of + 1))


def test_shards_are_about_equal() -> None:
    counts = [0] * 10
    for number in range(10_000):
        counts[number_of(f"photos/{number:05d}", 10) - 1] += 1
    assert min(counts) > 900
    assert max(counts) < 1100


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/0", "a/b", "-1/8", "1.5/8", "3/8/9", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ConfigError, match="i/n"):
        parse_shard(text)
    assert parse_shard(" 3/8 ") == Shard(3, 8)


@pytest.mark.parametrize("of", [1, 3, 40])
def test_merged_shards_are_what_one_run_leaves(
    data: LabelledImages, source: Listed, work: FromLabels, tmp_path: Path, of: int
) -> None:
    make_masks(data, tmp_path / "plain", work.config, confidence=True)
    work = replace(work, confidence=True)
    order = sorted(range(1, of + 1), key=lambda number: number * 7 % 11)
    make(work, source, tmp_path / "merged", of, *order)
    result = merge_shards(tmp_path / "merged")
    assert (result.shards, result.masks, result.failures) == (of, 11, 1)
    expected, found = files(tmp_path / "plain"), files(tmp_path / "merged")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert len([name for name in found if name.startswith("masks/")]) == 11
    assert not (tmp_path / "merged" / "shards").exists()


def test_a_folder_of_merged_shards_goes_on_as_any_other(
    data: LabelledImages, source: Listed, work: FromLabels, tmp_path: Path
) -> None:
    make(work, source, tmp_path, 3)
    merge_shards(tmp_path, report=False)
    before = files(tmp_path)
    again = make_masks(data, tmp_path, work.config, report=False)
    assert (again.written, again.skipped, len(again.failures)) == (0, 11, 1)
    assert files(tmp_path) == before
    other = make_masks(data, tmp_path, replace_alpha(work.config), report=False)
    assert (other.written, other.from_kept_cams) == (11, 11)
    assert exit_code("export", tmp_path, "--to", "coco") == 3  # one image failed
    exported = json.loads(next((tmp_path / "export" / "coco").rglob("*.json")).read_text())
    assert len(exported["images"]) == 11


def replace_alpha(config: Config) -> Config:
    return replace(config, pseudo=replace(config.pseudo, alpha=3.0))


def test_batches_of_a_shard_change_the_last_digits_at_most(
    data: LabelledImages, source: Listed, work: FromLabels, tmp_path: Path
) -> None:
    together = replace(work.config, data=replace(work.config.data, patches=None))
    make_masks(data, tmp_path / "plain", together, report=False)
    make(replace(work, config=together), source, tmp_path / "merged", 3)
    merge_shards(tmp_path / "merged", report=False)
    pixels = differing = 0
    for mask in (tmp_path / "plain" / "masks").iterdir():
        with (
            Image.open(mask) as one,
            Image.open(tmp_path / "merged" / "masks" / mask.name) as other,
        ):
            pairs = list(zip(one.tobytes(), other.tobytes(), strict=True))
        pixels, differing = pixels + len(pairs), differing + sum(a != b for a, b in pairs)
    assert pixels > 50_000
    assert differing / pixels < 1e-4


def test_a_shard_that_was_killed_goes_on(
    source: Listed, work: FromLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(work, source, tmp_path / "straight", 2)
    merge_shards(tmp_path / "straight", report=False)
    out = tmp_path / "killed"
    made = []

    def dying(path: Path, *arguments: object) -> None:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(path)
        write_mask(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mask_folder, "write_mask", dying)
        with pytest.raises(KeyboardInterrupt):
            make(work, source, out, 2, 1)
    with pytest.raises(DataError, match=r"lacks shard 2/2\. .* --shard 2/2"):
        merge_shards(out)
    make(work, source, out, 2, 2)
    with pytest.raises(DataError, match=r"00001-of-00002 is not finished.*--shard 1/2 again"):
        merge_shards(out)
    result = make_one(work, source, Shard(1, 2), out)
    assert result.skipped == 3
    merge_shards(out, report=False)
    assert files(out) == files(tmp_path / "straight")


@pytest.mark.parametrize("at", [0, 1, 9, 20])
def test_a_merge_that_was_killed_goes_on(
    source: Listed, work: FromLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    make(work, source, tmp_path / "straight", 3)
    shutil.copytree(tmp_path / "straight", tmp_path / "killed")
    merge_shards(tmp_path / "straight", report=False)
    out, moved = tmp_path / "killed", []

    def dying(source: str, target: str) -> None:
        if "-of-00003/" in str(source):
            if len(moved) == at:
                raise KeyboardInterrupt
            moved.append(source)
        replace_file(source, target)

    replace_file = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            merge_shards(out, report=False)
    with pytest.raises(ConfigError, match="are being merged"):
        is_merged(place(out), work, source.about, 3)
    assert merge_shards(out, report=False).masks == 11
    assert files(out) == files(tmp_path / "straight")
    assert merge_shards(out, report=False).masks == 11  # and nothing happens


def test_a_shard_is_missing_or_of_something_else(
    data: LabelledImages, source: Listed, work: FromLabels, tmp_path: Path
) -> None:
    make(work, source, tmp_path, 3)
    shards = tmp_path / "shards"

    def refused(text: str) -> None:
        with pytest.raises((DataError, ConfigError), match=text):
            merge_shards(tmp_path)
        assert not (tmp_path / "masks").exists()

    first, second = shards / "00001-of-00003", shards / "00002-of-00003"
    first.rename(tmp_path / "away")
    refused(r"lacks shard 1/3\. Run the same command with --shard 1/3")
    shutil.copytree(second, first)
    refused("is shard 2/3 by its own shard.json")
    shutil.rmtree(first)
    (tmp_path / "away").rename(first)
    shutil.copytree(first, shards / "00001-of-00004")
    refused("holds shards of 3 and of 4")
    shutil.rmtree(shards / "00001-of-00004")

    mask = next(second.glob("masks/*.png"))
    content = mask.read_bytes()
    mask.write_bytes(content[:-9])
    refused(
        rf"{mask.name} has {len(content) - 9:,} bytes; {len(content):,} were written.*2/3 again"
    )
    mask.unlink()
    refused(f"{mask.name} is missing")
    make(work, source, tmp_path, 3, 2)
    assert mask.read_bytes() == content

    fewer = Listed(source.about.vocabulary, source.samples[:-1])
    make(work, fewer, tmp_path, 3, 2)
    refused("the list of all images was another one")
    make(replace(work, confidence=True), source, tmp_path, 3, 2)
    refused("only one was made with --confidence")
    make(replace(work, config=replace_alpha(work.config)), source, tmp_path, 3, 2)
    refused(r"made with other settings than .*pseudo.alpha")
    make(work, source, tmp_path, 3, 2)
    assert merge_shards(tmp_path, report=False).masks == 11


def test_images_twice_or_in_none(source: Listed, work: FromLabels, tmp_path: Path) -> None:
    make(work, source, tmp_path, 2)
    out = place(tmp_path)
    one, two = (read_record(out, Shard(number, 2)) for number in (1, 2))
    assert one is not None
    assert two is not None
    write_record(out, replace(one, names=(*one.names, two.names[0])))
    with pytest.raises(DataError, match=f'"{two.names[0]}" in .* belongs to shard 2/2'):
        merge_shards(tmp_path)
    write_record(out, replace(one, names=one.names[1:]))
    with pytest.raises(DataError, match="were asked for 11 of 12 images"):
        merge_shards(tmp_path)
    uncounted = [replace(each, asked=replace(each.asked, images=None)) for each in (one, two)]
    write_record(out, replace(uncounted[0], names=(*one.names, two.names[0])))
    write_record(out, uncounted[1])
    with pytest.raises(DataError, match=f'"{two.names[0]}" is in .*1-of-00002 and in .*2-of-00002'):
        merge_shards(tmp_path)


def test_folders_that_hold_other_masks(
    data: LabelledImages, source: Listed, work: FromLabels, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has no shards to merge"):
        merge_shards(tmp_path)
    make_masks(data, tmp_path / "plain", work.config, report=False)
    with pytest.raises(ConfigError, match="made without shards"):
        is_merged(place(tmp_path / "plain"), work, source.about, 2)
    make(work, source, tmp_path / "shards", 2, 1)
    with pytest.raises(ConfigError, match=r"holds shards that are not merged\. .*ssrseg merge"):
        make_masks(data, tmp_path / "shards", work.config)
    with pytest.raises(ConfigError, match="holds a shard 1/2, but now there are 3"):
        is_merged(place(tmp_path / "shards"), work, source.about, 3)
    make(work, source, tmp_path / "shards", 2, 2)
    merge_shards(tmp_path / "shards", report=False)
    assert is_merged(place(tmp_path / "shards"), work, source.about, 5)
    with pytest.raises(ConfigError, match="of other images or made with other settings"):
        other = replace(work, config=replace_alpha(work.config))
        is_merged(place(tmp_path / "shards"), other, source.about, 2)


def test_commands(data: LabelledImages, config: Config, tmp_path: Path, capfd: object) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(config.to_yaml())
    command = ("masks", "--data", data.root, "--config", settings)
    assert exit_code(*command, "--out", tmp_path / "plain", "--no-report") == 3
    out = tmp_path / "out"
    codes = [exit_code(*command, "--out", out, "--shard", f"{number}/3") for number in (3, 1, 2)]
    assert sorted(codes) == [0, 0, 3]
    assert exit_code("merge", out, "--no-report") == 3
    assert files(out) == files(tmp_path / "plain")
    assert exit_code(*command, "--out", out, "--shard", "1/3") == 0
    for wrong in (("--shard", "4/3"), ("--chunk", "5"), ("--shard", "1/2", "--csv"),
                  ("--shard", "1/2", "--ray", "local")):  # fmt: skip
        assert exit_code(*command, "--out", tmp_path / "new", *wrong) == 2
    assert not (tmp_path / "new").exists()


def test_predictions(data: LabelledImages, config: Config, tmp_path: Path) -> None:
    settings, run = tmp_path / "settings.yaml", tmp_path / "run"
    settings.write_text(config.to_yaml())
    photos = tmp_path / "photos"
    shutil.copytree(data.root / "images", photos)
    assert exit_code("train", "--data", data.root, "--config", settings, "--out", run) in (0, 3)
    command = ("predict", "--model", run, "--no-report", "--confidence")
    assert exit_code(*command, "--images", photos, "--out", tmp_path / "plain") == 3
    for number in (2, 1):
        shard = ("--shard", f"{number}/2")
        assert exit_code(*command, "--images", photos, "--out", tmp_path / "out", *shard) in (0, 3)
    assert exit_code("merge", tmp_path / "out", "--no-report") == 3
    assert files(tmp_path / "out") == files(tmp_path / "plain")
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 11
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(photos, "")
    assert exit_code(*command, "--images", tmp_path / "photos.tar", "--out", tmp_path / "tar") == 3
    for folder in ("masks", "confidence"):
        assert files(tmp_path / "tar" / folder) == files(tmp_path / "plain" / folder)
