"""Images out of tar files, Parquet and stores: masks as of the same images in a folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from command import exit_code
from folder_files import files
from make_tiny import tiny_folder
from tiny_encoders import tiny_config

from ssrseg.config import Config
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import DataError, LabelsError, PackageError
from ssrseg.pseudo_masks import make_masks
from ssrseg.scale.making import is_merged, make_shards
from ssrseg.scale.merging import merge_shards
from ssrseg.scale.place import Place, place
from ssrseg.scale.shard import Shard
from ssrseg.scale.sources import InFile, Source, open_source
from ssrseg.scale.tar import images_of_tar
from ssrseg.scale.work import FromLabels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_folder(tmp_path_factory.mktemp("sources") / "data", n=7))


@pytest.fixture(scope="module")
def config(clip_dir: Path, dino_dir: Path) -> Config:
    return tiny_config(clip_dir, dino_dir, "cam.mode=clip", "data.patches=1")


@pytest.fixture(scope="module")
def work(config: Config) -> FromLabels:
    return FromLabels(config)


@pytest.fixture(scope="module")
def plain(
    data: LabelledImages, config: Config, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one run leaves of the images in their folder."""
    out = tmp_path_factory.mktemp("plain") / "out"
    make_masks(data, out, config, report=False)
    return files(out)


def words(data: LabelledImages, labels: tuple[int, ...]) -> list[str]:
    return [data.classes[index] for index in labels]


def write_tars(data: LabelledImages, folder: Path, form: str, *, count: int = 3) -> Path:
    """Tar files of WebDataset with labels as text, numbers or JSON."""
    folder.mkdir(parents=True)
    for number in range(count):
        with tarfile.open(
            folder / f"part-{number:03d}.tar{'.gz' * (form == 'txt')}",
            "w:gz" if form == "txt" else "w",
        ) as archive:
            for sample in data.samples[number::count]:
                named = words(data, sample.labels)
                labels = {
                    "txt": ";".join(named) or "none",
                    "cls": "\n".join(map(str, sample.labels)),
                    "json": json.dumps({"labels": named, "other": 1}),
                }[form]
                parts = {form: labels.encode(), "jpg": sample.image.read_bytes(), "xmp": b"x"}
                for extension, content in parts.items():
                    about = tarfile.TarInfo(f"{sample.name}.{extension}")
                    about.size = len(content)
                    archive.addfile(about, io.BytesIO(content))
    if form != "json":
        (folder / "classes.txt").write_text("\n".join(data.classes) + "\n")
    return folder


def write_parquet(data: LabelledImages, folder: Path, form: str) -> Path:
    """Parquet as ``datasets`` writes it, with numbers; or plain, with names."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir(parents=True)
    for number in range(2):
        part = data.samples[number::2]
        images = [{"bytes": each.image.read_bytes(), "path": each.image.name} for each in part]
        if form == "datasets":
            table = pa.table({"image": images, "labels": [list(each.labels) for each in part]})
            features = {
                "image": {"_type": "Image"},
                "labels": {"feature": {"names": list(data.classes), "_type": "ClassLabel"}},
            }
            about = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": about})
        else:
            table = pa.table(
                {
                    "jpg": [each["bytes"] for each in images],
                    "key": [f"{each.name}.jpg" for each in part],
                    "label": [words(data, each.labels) for each in part],
                }
            )
        parquet.write_table(table, folder / f"train-{number}.parquet", row_group_size=2)
    return folder


def make(work: FromLabels, source: Source, out: Place, *, chunk: int | None = None) -> None:
    parts = source.parts(1, chunk)
    for _ in make_shards(work, source, Shard(1, 1).parts_of(parts), out):
        pass


def without_image(content: bytes) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    return [row | {"image": ""} for row in rows]


def check_same(found: dict[str, bytes], plain: dict[str, bytes]) -> None:
    """All but where the images are."""
    found = {name: content for name, content in found.items() if "superpixels/" not in name}
    plain = {name: content for name, content in plain.items() if "superpixels/" not in name}
    assert without_image(found.pop("manifest.csv")) == without_image(plain["manifest.csv"])
    assert found == {name: plain[name] for name in plain if name != "manifest.csv"}
    assert len([name for name in found if name.startswith("masks/")]) == 7


def write_members(path: Path, *names: str) -> str:
    """A tar file of pictures and labels, each of which holds its own name."""
    with tarfile.open(path, "w") as archive:
        for name in names:
            about = tarfile.TarInfo(name)
            about.size = len(name)
            archive.addfile(about, io.BytesIO(name.encode()))
    return str(path)


def test_the_picture_of_a_key_and_its_labels(tmp_path: Path) -> None:
    file = write_members(tmp_path / "a.tar", "a.cls", "a.depth.png", "a.jpg", "b.x.png", "b.txt")
    found = list(images_of_tar(file, labelled=True))
    assert [(key, content) for key, _, content, _ in found] == [("a", b"a.jpg"), ("b", b"b.x.png")]
    assert [labels for _, labels, *_ in found] == [("a.cls",), ("b.txt",)]
    for names, fault in (
        (("a.jpg", "b.jpg", "a.cls", "b.cls"), r"a\.jpg has no labels beside it"),
        (("a.cls", "b.cls", "a.jpg", "b.jpg"), r"a\.cls has no picture beside it"),
        (("a.01.jpg", "a.02.jpg", "a.cls"), r"a\.01\.jpg, a\.02\.jpg are pictures of one key"),
        (("a.jpg", "a.png", "a.cls"), r"a\.jpg, a\.png are pictures of one key"),
    ):
        file = write_members(tmp_path / "b.tar", *names)
        with pytest.raises(DataError, match=fault):
            list(images_of_tar(file, labelled=True))
    # for a model, labels do not matter
    file = write_members(tmp_path / "c.tar", "a.jpg", "b.jpg", "a.cls")
    assert [key for key, *_ in images_of_tar(file, labelled=False)] == ["a", "b"]


def test_a_tar_file_that_ends_too_early(tmp_path: Path) -> None:
    names = [f"{number}.{kind}" for number in range(5) for kind in ("cls", "jpg")]
    whole = Path(write_members(tmp_path / "a.tar", *names)).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: 4 * 1024])  # at a member: header and content have 512 bytes each
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(whole[: 4 * 1024] + b"x" * 512 + whole[4 * 1024 + 512 :])
    for file in (cut, damaged):
        with pytest.raises(DataError, match="cut short, or a header in it is damaged"):
            list(images_of_tar(str(file), labelled=True))


def test_one_damaged_file_does_not_stop_the_others(
    data: LabelledImages, work: FromLabels, tmp_path: Path
) -> None:
    folder = write_tars(data, tmp_path / "tars", "cls")
    second = folder / "part-001.tar"
    whole = second.read_bytes()
    second.write_bytes(b"x" * len(whole))
    out = place(tmp_path / "out")
    made = []
    with pytest.raises(DataError, match=r"1 shard could not be made \(2/3\); the others were"):
        for each in make_shards(work, open_source(folder), Shard(1, 1).parts_of(3), out):
            made.append(str(each.shard))
    assert made == ["1/3", "3/3"]
    second.write_bytes(whole)
    results = list(make_shards(work, open_source(folder), Shard(1, 1).parts_of(3), out))
    assert [each.written for each in results] == [0, 2, 0]


def test_nothing_of_an_earlier_attempt_stays_in_a_store(
    data: LabelledImages, work: FromLabels, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data.root, root)
    good = data.samples[0].image.read_bytes()
    broken = root / data.samples[0].image.relative_to(data.root)
    broken.write_bytes(good[:60])
    out = place("memory://attempts/out")
    address = "memory://attempts/data"
    fs = fsspec.filesystem("memory")
    fs.put(str(root), "/attempts/data", recursive=True)
    make(work, open_source(address), out)
    fs.pipe_file(f"/attempts/data/{broken.relative_to(root).as_posix()}", good)
    make(replace(work, overwrite=True), open_source(address), out)
    merged = merge_shards(str(out))
    assert (merged.masks, merged.failures) == (7, 0)
    assert out.read_text("failures.csv") is None


@pytest.mark.parametrize("form", ["txt", "cls", "json"])
def test_tar_files(
    data: LabelledImages, work: FromLabels, plain: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    folder = write_tars(data, tmp_path / "tars", form)
    source = open_source(folder)
    assert (source.about.vocabulary.classes, source.parts(1, 500), source.about.staged) == (
        data.classes,
        3,
        True,
    )
    make(work, source, place(tmp_path / "out"))
    merge_shards(tmp_path / "out", report=False)
    check_same(files(tmp_path / "out"), plain)
    with (tmp_path / "out" / "manifest.csv").open() as file:
        images = {row["name"]: row["image"] for row in csv.DictReader(file)}
    suffix = ".gz" * (form == "txt")
    assert images["photo_1"] == f"../tars/part-001.tar{suffix}/photo_1.jpg"


@pytest.mark.parametrize("form", ["datasets", "plain"])
def test_parquet(
    data: LabelledImages, work: FromLabels, plain: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    folder = write_parquet(data, tmp_path / "parquet", form)
    source = open_source(folder / "train-{0..1}.parquet")
    assert (source.about.vocabulary.classes, source.parts(1, None)) == (data.classes, 2)
    make(work, source, place(tmp_path / "out"))
    merge_shards(tmp_path / "out", report=False)
    check_same(files(tmp_path / "out"), plain)


def test_faulty_packed_files(data: LabelledImages, tmp_path: Path) -> None:
    folder = write_tars(data, tmp_path / "tars", "json")

    def refused(error: type[Exception], text: str, file: str = "part-000.tar") -> None:
        with pytest.raises(error, match=text):
            list(InFile(str(folder / file), data.classes, True).read())

    (folder / "classes.txt").write_text("zebra\n")
    with pytest.raises(
        LabelsError, match=r"000.tar: .* has the label '.*', which is none of the 1"
    ):
        list(open_source(folder).part(Shard(1, 3)).read())
    (folder / "classes.txt").unlink()
    good = (folder / "part-000.tar").read_bytes()
    (folder / "part-000.tar").write_bytes(good[:-15_000])
    refused(DataError, r"part-000.tar is damaged")
    (folder / "part-000.tar").write_bytes(b"something else" * 99)
    refused(DataError, r"part-000.tar is damaged, or no tar file")
    (folder / "part-000.tar").write_bytes(good)
    for names, text in (
        (["a.jpg", "a.cls", "b.jpg", "b.cls", "a.jpg", "a.cls"], 'odd.tar has two images "a"'),
        (["../../a.jpg", "../../a.cls"], r'odd.tar: the name ".*a" has an empty part'),
        (["a.json"], "odd.tar holds no image"),
    ):
        with tarfile.open(folder / "odd.tar", "w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        refused(DataError, text, "odd.tar")
    numbers = write_tars(data, tmp_path / "numbers", "cls")
    (numbers / "classes.txt").unlink()
    with pytest.raises(LabelsError, match=r"has the number \d as a label.*classes.txt"):
        open_source(numbers)
    with pytest.raises(DataError, match="names a list of images"):
        open_source(numbers, "train")


def test_one_name_in_two_tar_files(data: LabelledImages, work: FromLabels, tmp_path: Path) -> None:
    folder = write_tars(data, tmp_path / "tars", "json", count=1)
    shutil.copy(folder / "part-000.tar", folder / "part-001.tar")
    source = open_source(folder)
    make(work, source, place(tmp_path / "out"))
    with pytest.raises(DataError, match=r"is in .*00001-of-00002 and in .* all packed files"):
        merge_shards(tmp_path / "out")


def test_scratch_is_bounded_and_gone(
    data: LabelledImages, work: FromLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tars(data, tmp_path / "tars", "json")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    waiting = []

    class Watching(FromLabels):
        def make(self, *arguments: Any) -> Any:
            waiting.append(sum(path.is_file() for path in scratch.rglob("*.jpg")))
            return super().make(*arguments)

    make(Watching(work.config, loaded=work.loaded), open_source(folder), place(tmp_path / "out"))
    assert waiting == [3, 2, 2]  # of 7 images
    assert list(scratch.iterdir()) == []


def test_a_shard_that_is_finished_is_passed_over(
    data: LabelledImages, work: FromLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = open_source(write_tars(data, tmp_path / "tars", "json")), place(tmp_path / "out")
    first = list(make_shards(work, source, Shard(1, 2).parts_of(3), out))
    assert [(str(each.shard), each.written) for each in first] == [("1/3", 3), ("3/3", 2)]
    read = []
    original = InFile.read
    monkeypatch.setattr(
        InFile, "read", lambda self: read.append(Path(self.file).name) or original(self)
    )
    again = list(make_shards(work, source, Shard(1, 1).parts_of(3), out))
    assert [(each.written, each.skipped) for each in again] == [(0, 3), (2, 0), (0, 2)]
    assert read == ["part-000.tar", "part-001.tar", "part-002.tar"]
    other = replace(
        work, config=replace(work.config, pseudo=replace(work.config.pseudo, alpha=3.0))
    )
    assert next(make_shards(other, source, [Shard(1, 3)], out)).written == 3


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


def fetched(address: str, folder: Path) -> dict[str, bytes]:
    fs, root = fsspec.url_to_fs(address)
    fs.invalidate_cache()
    for path in fs.find(root):
        target = folder / path.removeprefix(root).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(path, str(target))
    return files(folder)


def upload(folder: Path, address: str) -> None:
    fs, root = fsspec.url_to_fs(address)
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def test_from_a_store_to_a_store(
    data: LabelledImages, work: FromLabels, plain: dict[str, bytes], tmp_path: Path, memory: Any
) -> None:
    upload(data.root, "memory://bucket/data")
    source, out = open_source("memory://bucket/data"), place("memory://bucket/out")
    assert (source.about.vocabulary.classes, source.about.images) == (data.classes, 7)
    assert source.parts(1, 2) == 4
    assert source.parts(2, 2) == 4
    assert source.parts(3, 2) == 6
    make(work, source, out, chunk=2)
    assert not is_merged(out, work, source.about, 4)
    merge_shards("memory://bucket/out")
    assert is_merged(out, work, source.about, 4)
    check_same(fetched("memory://bucket/out", tmp_path / "out"), plain)
    with (tmp_path / "out" / "manifest.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["image"] == "memory://bucket/data/images/photo_0.jpg"
    assert not memory.exists("memory://bucket/out/shards")
    assert merge_shards("memory://bucket/out").masks == 7


def test_from_a_store_to_a_folder_and_back(
    data: LabelledImages, work: FromLabels, plain: dict[str, bytes], tmp_path: Path, memory: Any
) -> None:
    upload(data.root, "memory://bucket/data")
    make(work, open_source("memory://bucket/data/labels.csv"), place(tmp_path / "out"), chunk=3)
    merge_shards(tmp_path / "out", report=False)
    check_same(files(tmp_path / "out"), plain)
    make(work, open_source(data.root), place("memory://bucket/out"), chunk=3)
    merge_shards("memory://bucket/out")
    check_same(fetched("memory://bucket/out", tmp_path / "again"), plain)


def test_a_merge_in_a_store_that_was_killed(
    data: LabelledImages,
    work: FromLabels,
    plain: dict[str, bytes],
    tmp_path: Path,
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(work, open_source(data.root), place("memory://bucket/out"), chunk=3)
    removed = []
    original = type(memory).rm_file

    def dying(self: Any, path: str) -> None:
        removed.append(path)
        if len(removed) == 6:
            raise KeyboardInterrupt
        original(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "rm_file", dying)
        with pytest.raises(KeyboardInterrupt):
            merge_shards("memory://bucket/out")
    merge_shards("memory://bucket/out")
    check_same(fetched("memory://bucket/out", tmp_path / "out"), plain)


def test_an_image_in_a_store_that_is_none(
    data: LabelledImages, work: FromLabels, tmp_path: Path, memory: Any
) -> None:
    upload(data.root, "memory://bucket/data")
    memory.pipe_file("/bucket/data/images/photo_3.jpg", b"no image")
    make(work, open_source("memory://bucket/data"), place("memory://bucket/out"), chunk=9)
    assert merge_shards("memory://bucket/out").failures == 1
    found = fetched("memory://bucket/out", tmp_path / "out")
    address = "memory://bucket/data/images/photo_3.jpg"
    failures = list(csv.DictReader(io.StringIO(found["failures.csv"].decode())))
    assert [(row["name"], row["image"]) for row in failures] == [("photo_3", address)]
    assert failures[0]["reason"].startswith(f"{address} is not an image")


def test_addresses_that_lead_nowhere(memory: Any) -> None:
    with pytest.raises(DataError, match=r"memory://none is empty, or not there"):
        open_source("memory://none")
    with pytest.raises(DataError, match=r"nowhere://a cannot be reached"):
        open_source("nowhere://a")
    with pytest.raises(PackageError, match=r"gs://a needs a package"):
        open_source("gs://a")


def test_commands(
    data: LabelledImages, config: Config, tmp_path: Path, plain: dict[str, bytes], memory: Any
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(config.to_yaml())
    tars = write_tars(data, tmp_path / "tars", "txt")
    command = ("masks", "--config", settings, "--no-report")
    assert exit_code(*command, "--data", tars, "--out", tmp_path / "out") == 0
    check_same(files(tmp_path / "out"), plain)
    assert exit_code(*command, "--data", tars, "--out", tmp_path / "out") == 0
    upload(data.root, "memory://bucket/data")
    command = (*command, "--data", "memory://bucket/data", "--out", "memory://bucket/out")
    assert exit_code(*command, "--chunk", "2", "--shard", "2/2") == 0
    assert exit_code("merge", "memory://bucket/out") == 2
    assert exit_code(*command, "--chunk", "2", "--shard", "1/2") == 0
    assert exit_code("merge", "memory://bucket/out") == 0
    check_same(fetched("memory://bucket/out", tmp_path / "fetched"), plain)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on this machine."""
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    for key in [key for key in os.environ if re.match("AWS_", key)]:
        monkeypatch.delenv(key)
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    fsspec.filesystem("s3").clear_instance_cache()
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.mark.filterwarnings("default")  # of the server's and the client's libraries
def test_s3(
    data: LabelledImages, work: FromLabels, plain: dict[str, bytes], tmp_path: Path, s3: str
) -> None:
    upload(data.root, f"{s3}/data")
    source = open_source(f"{s3}/data")
    make(work, source, place(f"{s3}/out"), chunk=3)
    assert [
        each.written for each in make_shards(work, source, [Shard(1, 3)], place(f"{s3}/out"))
    ] == [0]
    merge_shards(f"{s3}/out")
    check_same(fetched(f"{s3}/out", tmp_path / "out"), plain)
    upload(write_tars(data, tmp_path / "tars", "json"), f"{s3}/tars")
    make(work, open_source(f"{s3}/tars"), place(f"{s3}/from-tars"))
    merge_shards(f"{s3}/from-tars")
    check_same(fetched(f"{s3}/from-tars", tmp_path / "from-tars"), plain)
    with pytest.raises(DataError, match=r"s3://missing/data .*"):
        open_source("s3://missing/data")
