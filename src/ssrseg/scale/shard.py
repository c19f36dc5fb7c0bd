"""Which images a shard has: decided by their names alone, so that no two jobs have to talk."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ssrseg.errors import ConfigError

_FOLDER = re.compile(r"(\d{5,})-of-(\d{5,})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``of`` parts of some images; numbers begin at 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def folder(self) -> str:
        """Where its masks go, below the folder that all shards share."""
        return f"shards/{self.number:05d}-of-{self.of:05d}"

    def parts_of(self, parts: int) -> list[Shard]:
        """Its parts, where all images together are cut into more, each for one shard."""
        return [Shard(number, parts) for number in range(self.number, parts + 1, self.of)]


def parse_shard(text: str) -> Shard:
    """A shard as the command line names it: ``3/8``.

    Raises:
        ConfigError: If it is none.
    """
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(
            f'--shard {text}: "i/n" is expected, the i-th of n shards, from 1/n to n/n, such as'
            " 3/8. A job array that counts from 0 gives $((SLURM_ARRAY_TASK_ID + 1))/8."
        )
    return Shard(int(found[1]), int(found[2]))


def shard_of_folder(name: str) -> Shard | None:
    """The shard whose folder is called so below ``shards/``."""
    found = _FOLDER.fullmatch(name)
    return None if found is None else Shard(int(found[1]), int(found[2]))


def number_of(name: str, of: int) -> int:
    """The shard, 1 .. ``of``, that an image of this name belongs to.

    BLAKE2b of the name in UTF-8, its first 64 bits as a big-endian number, modulo ``of``: the same
    in every Python, on every machine, and whatever other images there are.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % of + 1
