"""Images and labels by shards: from a folder, from a store, out of tar files, out of Parquet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from ssrseg.console import note
from ssrseg.data.classes import NO_CLASS, class_key, read_classes
from ssrseg.data.naming import name_fault, sample_name
from ssrseg.data.open import open_images, open_labelled
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.data.text import quoted
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import DataError, LabelsError, SSRError, counted, did_you_mean
from ssrseg.scale.packed import packed_files
from ssrseg.scale.place import at_once, is_address, reaching, sizes_below, store_of
from ssrseg.scale.shard import Shard, number_of
from ssrseg.scale.words import Labels

_LISTS = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".xml", ".txt", ".yaml", ".yml")
"""Suffixes of what may say labels, classes or splits."""


@dataclass(frozen=True)
class Photograph:
    """An image on its way to the encoders.

    Attributes:
        labels: Indices of its classes.
        image: A file of this machine, or the content of one.
        suffix: Of the file, where there is its content only.
        origin: Where it is from: a path, an address, or a place in a packed file.
    """

    name: str
    labels: tuple[int, ...]
    image: Path | bytes
    suffix: str
    origin: str


@dataclass(frozen=True)
class Vocabulary:
    """Classes, and what CLIP is asked; without classes where labels do not matter."""

    classes: tuple[str, ...] = ()
    prompts: Mapping[str, str] | None = None
    background: tuple[str, ...] = ()

    def data(self, samples: Iterable[Sample], root: Path) -> LabelledImages:
        """Samples as a data set."""
        return LabelledImages(
            root, self.classes, tuple(samples), self.prompts or {}, background=self.background
        )


@dataclass(frozen=True)
class About:
    """What is known of all images together.

    Attributes:
        vocabulary: What their labels mean.
        digest: Of the list of all of them, or of the packed files.
        images: Their number; None if nobody has counted them.
        staged: Whether they have to be brought to this machine.
    """

    vocabulary: Vocabulary
    digest: str
    images: int | None
    staged: bool


@runtime_checkable
class Part(Protocol):
    """The images of one shard; small, for it is sent to whoever reads them."""

    def read(self) -> Iterator[Photograph]:
        """The images, always in the same order.

        Raises:
            DataError: If they cannot be read.
        """


@runtime_checkable
class Source(Protocol):
    """All images of a call, to be had by shards."""

    @property
    def about(self) -> About:
        """What is known of all of them together."""

    def parts(self, shards: int, chunk: int | None) -> int:
        """Into how many shards they are cut, so that each of ``shards`` jobs has about as many.

        Args:
            chunk: Images that may be in one on average, where that can be chosen.
        """

    def part(self, shard: Shard) -> Part:
        """The images of a shard."""


class Listed:
    """Images of which there is a list, by the hash of their names."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        samples: Iterable[Sample],
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        """Number them.

        Args:
            addresses: Of their files by name, where they lie in a store.
        """
        self.samples, self._addresses = tuple(samples), addresses
        digest = digest_of(*sorted(f"{each.name}\0{each.labels}" for each in self.samples))
        self.about = About(vocabulary, digest, len(self.samples), addresses is not None)
        self._by_number: tuple[int, dict[int, list[Sample]]] = (0, {})

    def parts(self, shards: int, chunk: int | None) -> int:
        """As many for every job."""
        return shards if chunk is None else shards * -(-len(self.samples) // (shards * chunk))

    def part(self, shard: Shard) -> Part:
        """The images whose names belong to it, in their own order."""
        of, by_number = self._by_number
        if of != shard.of:
            by_number = {}
            for sample in self.samples:
                by_number.setdefault(number_of(sample.name, shard.of), []).append(sample)
            self._by_number = shard.of, by_number
        mine = tuple(by_number.get(shard.number, ()))
        if self._addresses is None:
            return Local(mine)
        return InStore(mine, tuple(self._addresses[each.name] for each in mine))


@dataclass(frozen=True)
class Local:
    """Images on disks that whoever makes the masks sees, too."""

    samples: tuple[Sample, ...]

    def read(self) -> Iterator[Photograph]:
        """Their paths."""
        for each in self.samples:
            yield Photograph(each.name, each.labels, each.image, "", str(each.image))


@dataclass(frozen=True)
class InStore:
    """Images behind addresses."""

    samples: tuple[Sample, ...]
    addresses: tuple[str, ...]

    def read(self) -> Iterator[Photograph]:
        """Their contents, fetched some at a time."""
        if not self.addresses:
            return
        fs, _ = store_of(self.addresses[0])

        def fetch(pair: tuple[Sample, str]) -> Photograph:
            sample, address = pair
            with reaching(address):
                content = bytes(fs.cat_file(address))
            suffix = Path(address).suffix
            return Photograph(sample.name, sample.labels, content, suffix, address)

        yield from at_once(fetch, zip(self.samples, self.addresses, strict=True))


class Packed:
    """Images in packed files, each of which is a shard of its own.

    A file is not cut, so that a job reads its own ones only; without a list of classes it reads the
    labels of all.
    """

    def __init__(self, vocabulary: Vocabulary, files: tuple[str, ...]) -> None:
        """Look up how large the files are."""
        self.files = files
        sizes = []
        for file in files:
            fs, path = store_of(file)
            with reaching(file):
                sizes.append(str(fs.size(path)))
        digest = digest_of(*(file.rpartition("/")[2] for file in files), *sizes)
        self.about = About(vocabulary, digest, None, True)

    def parts(self, shards: int, chunk: int | None) -> int:
        """One for each file."""
        return len(self.files)

    def part(self, shard: Shard) -> Part:
        """What is in the file of a shard."""
        classes = self.about.vocabulary.classes
        return InFile(self.files[shard.number - 1], classes, bool(classes))


@dataclass(frozen=True)
class InFile:
    """The images of one packed file."""

    file: str
    classes: tuple[str, ...]
    labelled: bool

    def read(self) -> Iterator[Photograph]:
        """Their contents, one at a time, in the order of the file."""
        index, seen = {class_key(name): number for number, name in enumerate(self.classes)}, set()
        for name, labels, content, suffix in _unpacked(self.file, labelled=self.labelled):
            if fault := name_fault(name):
                raise DataError(f"{self.file}: the name {quoted(name)} {fault}. Name it otherwise.")
            if name in seen:
                raise DataError(f"{self.file} has two images {quoted(name)}. Rename or remove one.")
            seen.add(name)
            known = _indices(labels, index, self.classes, f"{self.file}: {quoted(name)}")
            yield Photograph(name, known, content, suffix, f"{self.file}/{name}{suffix}")
        if not seen:
            raise DataError(f"{self.file} holds no image. Remove it, or pack it again.")


def _unpacked(
    file: str, *, labelled: bool, labels_only: bool = False
) -> Iterator[tuple[str, Labels, bytes, str]]:
    """Name, labels, content and suffix of every image in a packed file."""
    if file.endswith(".parquet"):
        from ssrseg.scale.parquet import rows_of_parquet

        return rows_of_parquet(file, labels_only=labels_only)
    from ssrseg.scale.tar import images_of_tar

    return images_of_tar(file, labelled=labelled, labels_only=labels_only)


def _indices(
    labels: Labels, index: Mapping[str, int], classes: tuple[str, ...], where: str
) -> tuple[int, ...]:
    """Indices of labels; none where there are no classes, as for prediction."""
    found = set()
    for label in labels if classes else ():
        number = label if isinstance(label, int) else index.get(class_key(label))
        if number is None or not 0 <= number < len(classes):
            raise LabelsError(
                f"{where} has the label {label!r}, which is none of the {len(classes)} classes."
                f"{did_you_mean(str(label)[:99], classes)} Mend it, or the list of classes."
            )
        found.add(number)
    return tuple(sorted(found))


def open_source(data: str | Path, split: str | None = None, *, labels: bool = True) -> Source:
    """Images with their labels, wherever they are.

    Args:
        data: As for ``open_labelled``; or an address of such a folder in a store; or packed files:
            one ``.tar`` (WebDataset: key.jpg with key.cls, key.txt or key.json) or ``.parquet``,
            several by ``part-{000..009}.tar``, or a folder of them.
        split: A list of image names; not for packed files.
        labels: Whether they matter; without them, images are enough.

    Raises:
        SSRError: As ``open_labelled``; and if a store cannot be reached.
    """
    packed = packed_files(str(data))
    if packed:
        if split is not None:
            raise DataError(
                f"--split {split} names a list of images, and {data} is packed files. Name the"
                " files of the part that you want instead."
            )
        return Packed(_packed_vocabulary(packed) if labels else Vocabulary(), packed)
    if is_address(data):
        return _open_store(str(data), split, labels)
    if labels:
        return listed(open_labelled(data, split=split))
    images = open_images(data, split=split)
    return unlabelled(Sample(name, path, (), None) for name, path in images.items())


def listed(data: LabelledImages) -> Listed:
    """Images of this machine with their labels."""
    return Listed(_vocabulary(data), data.samples)


def unlabelled(samples: Iterable[Sample]) -> Listed:
    """Images of this machine whose labels do not matter."""
    return Listed(Vocabulary(), samples)


def _vocabulary(data: LabelledImages) -> Vocabulary:
    return Vocabulary(data.classes, dict(data.prompts), data.background)


def _packed_vocabulary(files: tuple[str, ...]) -> Vocabulary:
    """By classes.txt or classes.yaml beside the files, else what they say themselves."""
    folder = files[0].rpartition("/")[0] or "."
    with tempfile.TemporaryDirectory() as scratch:
        fs, root = store_of(folder)
        for name in ("classes.txt", "classes.yaml"):
            with reaching(f"{folder}/{name}"):
                if fs.exists(f"{root}/{name}"):
                    fs.get_file(f"{root}/{name}", f"{scratch}/{name}")
        listed = read_classes(Path(scratch))
    if listed is not None:
        return Vocabulary(listed.names, listed.prompts, listed.background)
    if files[0].endswith(".parquet"):
        from ssrseg.scale.parquet import classes_of_parquet

        if names := classes_of_parquet(files[0]):
            return Vocabulary(names)
    found: set[str] = set()
    for file in files:
        for name, labels_there, *_ in _unpacked(file, labelled=True, labels_only=True):
            for label in labels_there:
                if isinstance(label, int):
                    raise LabelsError(
                        f"{file}: {quoted(name)} has the number {label} as a label, and nothing"
                        f" says what it means. Write the classes into {folder}/classes.txt, a line"
                        " each; 0 is the first."
                    )
                found.add(label)
    if not found:
        raise LabelsError(
            f"{files[0]} and the {len(files) - 1} other files have no label. Beside KEY.jpg there"
            " should be KEY.cls, KEY.txt or KEY.json; in Parquet a column label or labels."
        )
    return Vocabulary(tuple(sorted(found - {NO_CLASS})))


def _open_store(address: str, split: str | None, labels: bool) -> Listed:
    """A data folder in a store: its lists are fetched, and stand beside empty files for its images.

    So every format of labels is known that is known on a disk, where no image is opened either.
    """
    root = address.rpartition("/")[0] if address.lower().endswith(_LISTS) else address.rstrip("/")
    fs, below = store_of(root)
    below = below.rstrip("/")
    with reaching(address):
        names = list(sizes_below(fs, below))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "data")

        def fetch(name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name.lower().endswith(_LISTS):
                with reaching(f"{root}/{name}"):
                    fs.get_file(f"{below}/{name}", str(folder / name))
            elif name.lower().endswith(SUFFIXES):
                (folder / name).touch()

        if not names:
            raise DataError(f"{address} is empty, or not there. Check the address.")
        usable = [name for name in names if not name_fault(name)]
        if left := len(names) - len(usable):
            odd = next(name for name in names if name_fault(name))
            note(f"{counted(left, 'file', 'files')} of {address} left out for their names: {odd}")
        for _ in at_once(fetch, usable):
            pass
        opened = folder / address[len(root) + 1 :]
        try:
            found, vocabulary = _samples(opened, split, labels)
        except SSRError as error:
            raise type(error)(str(error).replace(str(folder), root)) from error
        addresses = {
            each.name: f"{root}/{each.image.relative_to(folder).as_posix()}" for each in found
        }
    return Listed(vocabulary, found, addresses)


def _samples(folder: Path, split: str | None, labels: bool) -> tuple[list[Sample], Vocabulary]:
    if labels:
        data = open_labelled(folder, split=split)
        # true masks stay where they are
        return [replace(each, truth=None) for each in data.samples], _vocabulary(data)
    if split is not None:
        images = open_images(folder, split=split)
    else:
        from ssrseg.data.walk import list_images

        listed = list_images(folder).images
        images = {sample_name(path.relative_to(folder).as_posix()): path for path in listed}
    return [Sample(name, path, (), None) for name, path in images.items()], Vocabulary()
