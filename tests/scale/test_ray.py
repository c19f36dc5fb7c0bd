"""Shards on a Ray cluster of this machine, some of whose processes are killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folder_files import files
from make_tiny import tiny_folder
from tiny_encoders import tiny_config

from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.errors import ConfigError, DataError
from ssrseg.pseudo_masks import make_masks
from ssrseg.scale.making import make_shards
from ssrseg.scale.merging import merge_shards
from ssrseg.scale.on_ray import make_on_ray
from ssrseg.scale.place import place
from ssrseg.scale.shard import Shard
from ssrseg.scale.sources import listed
from ssrseg.scale.work import FromLabels

ray: Any = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs, which the tests share."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        logging_level="warning",
    )
    yield
    ray.shutdown()


class Killer:
    """Kills the first process of each kind that is seen at work, one kind after the other."""

    def __init__(self, *kinds: str) -> None:
        self.killed: dict[str, int] = {}
        self._kinds, self._stop = list(kinds), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._kinds and not self._stop.wait(0.01):
            kind = self._kinds[0]
            pid = next((pid for pid, title in children() if title.startswith(kind)), None)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed[self._kinds.pop(0)] = pid


def children() -> Iterator[tuple[int, str]]:
    """Processes below this one by what they say that they do."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_text().strip("\0 ")
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    for pid, title in titles.items():
        above = pid
        while above > 1 and above != os.getpid():
            above = parents.get(above, 0)
        if above == os.getpid():
            yield pid, title


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return open_labelled(tiny_folder(tmp_path_factory.mktemp("ray") / "data", n=60))


@pytest.fixture(scope="module")
def work(clip_dir: Path, dino_dir: Path) -> FromLabels:
    return FromLabels(tiny_config(clip_dir, dino_dir, "cam.mode=clip", "data.patches=1"))


def test_an_actor_and_a_worker_are_killed(
    cluster: None, data: LabelledImages, work: FromLabels, tmp_path: Path
) -> None:
    make_masks(data, tmp_path / "plain", work.config, report=False)
    out, source, shards = tmp_path / "out", listed(data), Shard(1, 1).parts_of(12)
    # busy, not idle: in the middle of reading, and of making masks
    with Killer("ray::Map(_read)", "ray::MapWorker(MapBatches(_Maker)).submit") as killer:
        results = list(make_on_ray(work, source, shards, place(out), "local"))
    assert list(killer.killed) == ["ray::Map(_read)", "ray::MapWorker(MapBatches(_Maker)).submit"]
    assert sorted(each.shard.number for each in results) == list(range(1, 13))
    assert sum(each.written + each.skipped for each in results) == 60
    assert merge_shards(out, report=False).masks == 60
    assert files(out) == files(tmp_path / "plain")


def test_what_is_done_is_not_done_again(
    cluster: None, data: LabelledImages, work: FromLabels, tmp_path: Path
) -> None:
    source, out = listed(replace(data, samples=data.samples[:8])), place(tmp_path / "out")
    shards = Shard(1, 1).parts_of(3)
    first = list(make_shards(work, source, shards[:2], out))
    again = list(make_on_ray(work, source, shards, out, "local"))
    assert [each.skipped for each in again[:2]] == [each.written for each in first]
    assert (again[2].written, again[2].skipped) == (8 - sum(each.written for each in first), 0)
    assert merge_shards(tmp_path / "out", report=False).masks == 8


def test_a_fault_of_the_user_comes_back_as_one(
    cluster: None, data: LabelledImages, work: FromLabels, tmp_path: Path
) -> None:
    data.samples[0].image.write_bytes(b"no image")
    source = listed(replace(data, samples=data.samples[:2]))
    strict = replace(work, strict=True)
    with pytest.raises(DataError, match=r"photo_0.jpg is not an image"):
        list(make_on_ray(strict, source, [Shard(1, 1)], place(tmp_path), "local"))


def test_no_cluster(data: LabelledImages, work: FromLabels, tmp_path: Path) -> None:
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(ConfigError, match=r"--ray 127.0.0.1:1: no Ray cluster answers there"):
        list(make_on_ray(work, listed(data), [Shard(1, 1)], place(tmp_path), "127.0.0.1:1"))
