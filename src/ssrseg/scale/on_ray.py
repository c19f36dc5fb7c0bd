"""Shards on a Ray cluster, as a pipeline of Ray Data: read by tasks, masks by actors, written."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from ssrseg.errors import ConfigError, PackageError, SSRError
from ssrseg.scale.making import Faults, ShardResult, asked_of, is_done, make_shard
from ssrseg.scale.place import Place, place
from ssrseg.scale.record import read_record
from ssrseg.scale.shard import Shard
from ssrseg.scale.sources import About, Part, Source
from ssrseg.scale.work import Work

_MOST = 64_000_000  # bytes of photographs in an object
_STORE = 200_000_000  # bytes of objects in a cluster that is started here
_ACTOR_CPUS = 0.4  # actors that took whole CPUs would leave none to read for them: a deadlock
_READER_CPUS = 0.5
_PATIENCE = 10.0  # seconds

LOCAL = "local"
"""Address of a cluster that is started here, and stopped at the end."""


def make_on_ray(
    work: Work, source: Source, shards: Sequence[Shard], out: Place, address: str
) -> Iterator[ShardResult]:
    """Make shards on a cluster: one object is one shard's photographs, still encoded, or paths.

    Tasks read, an actor per GPU (without one: per CPU) holds the encoders and makes the masks; what
    is too large for an object the actor reads by itself. What is lost with a process or a machine
    is made again: a shard that was finished is passed over, and one that was begun is gone on with,
    in a store begun anew.

    Args:
        out: In a store, or on a disk that all machines see at the same path.
        address: Of the cluster; ``local`` = one that is started here.

    Yields:
        Results, as shards become ready.

    Raises:
        PackageError: If Ray is not installed.
        ConfigError: If the cluster cannot be reached.
        SSRError: As ``make_shard``.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
    except ImportError as error:
        raise PackageError(
            f"--ray needs the package {error.name}, which is not installed: pip install"
            " 'ssrseg[ray]'."
        ) from error
    asked, made_for = (
        asked_of(work, source.about, shards[0].of),
        work.digest(source.about.vocabulary),
    )
    todo, faults, home = [], Faults(), os.getcwd()
    for shard in shards:
        record = read_record(out, shard)
        if record is not None and is_done(record, asked, made_for) and not work.overwrite:
            yield ShardResult(shard, 0, len(record.names), ())
        else:
            part = pickle.dumps(source.part(shard))
            todo.append({"number": shard.number, "of": shard.of, "part": part, "home": home})
    if not todo:
        return
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.verbose_progress = False
        gpus = int(ray.cluster_resources().get("GPU", 0))
        actors = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
        done = (
            ray.data.from_items(todo, override_num_blocks=len(todo))
            .map(_read, num_cpus=_READER_CPUS)
            .map_batches(
                _Maker,
                fn_constructor_args=(work, source.about, str(out), home),
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=min(actors, len(todo))),
                num_cpus=_ACTOR_CPUS,
                num_gpus=1 if gpus else 0,
            )
        )
        for row in done.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, SSRError):
                faults.add(Shard(int(row["number"]), int(row["of"])), result)
            else:
                yield result
        faults.end()
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet = {"logging_level": "warning", "log_to_driver": False}
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, include_dashboard=False, object_store_memory=_STORE, **quiet)
        else:
            host, colon, port = address.rpartition("://")[2].rpartition(":")
            if colon and port.isdecimal():  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
            ray.init(address=address, **quiet)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there ({' '.join(str(error).split())[:300]})."
            " Give the address that `ray start --head` names, auto on a machine of the cluster, or"
            " local."
        ) from error


def _read(row: dict[str, Any]) -> dict[str, Any]:
    """The photographs of a shard, as they are in their files; the part itself if they are large."""
    part, home = pickle.loads(row.pop("part")), row.pop("home")
    _go_to(home)
    found: Any = []
    size = 0
    try:
        for each in part.read():
            found.append(each)
            size += len(each.image) if isinstance(each.image, bytes) else 0
            if size > _MOST:
                found = part
                break
    except SSRError as error:
        found = error
    return row | {"photographs": pickle.dumps(found)}


def _go_to(home: str) -> None:
    """Where the command was given, so that relative paths are the same: if this machine has it."""
    with suppress(OSError):
        os.chdir(home)


class _Maker:
    """An actor: encoders that are loaded once, and make the masks of one shard after another."""

    def __init__(self, work: Work, about: About, out: str, home: str) -> None:
        _go_to(home)
        self.work, self.about, self.out = work, about, place(out)
        self.made_for = work.digest(about.vocabulary)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(int(batch["number"][0]), int(batch["of"][0]))
        found: Any = pickle.loads(batch["photographs"][0])
        if not isinstance(found, SSRError):
            photographs = found.read() if isinstance(found, Part) else found
            try:
                found = make_shard(
                    self.work, self.about, shard, photographs, self.out, made_for=self.made_for
                )
            except SSRError as error:
                found = error
        return {"number": [shard.number], "of": [shard.of], "result": [pickle.dumps(found)]}
