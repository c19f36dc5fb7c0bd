"""Join shards to one folder of masks, as one run would have left it, after checking all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ssrseg.console import steps
from ssrseg.data.csv_lines import csv_line, csv_rows
from ssrseg.data.files import only_writer
from ssrseg.errors import ConfigError, DataError, counted
from ssrseg.failures import FILE as FAILURES
from ssrseg.kept_cams import cams_path
from ssrseg.made_with import MADE_FROM, MadeWith, change, read_made_with
from ssrseg.manifest import FILE as MANIFEST
from ssrseg.manifest import confidence_path, manifest_text, mask_path
from ssrseg.report.masks import write_masks_report
from ssrseg.review import DOUBTS
from ssrseg.scale.making import MARK
from ssrseg.scale.place import Place, is_address, place
from ssrseg.scale.record import MERGED, Merged, Record, read_merged, read_record, write_merged
from ssrseg.scale.shard import Shard, number_of, shard_of_folder

_PLACES = (mask_path, cams_path, confidence_path)  # of what is moved; tables are joined
_MOVED = ("masks", "cams", "confidence")  # its folders
_SHOWN = 5  # of each fault

_Rows = dict[str, dict[str, str]]


@dataclass(frozen=True)
class MergeResult:
    """What was joined.

    Attributes:
        shards: Their number.
        masks: Masks in ``out`` now.
        failures: Images of the shards that could not be used.
    """

    out: str
    shards: int
    masks: int
    failures: int


def merge_shards(out: str | Path, *, report: bool = True) -> MergeResult:
    """Join the shards below a folder to one folder of masks, and remove them.

    Nothing is moved before everything is checked: all shards are there and finished, made of the
    same images with the same settings, nothing is there twice, nothing that was asked for is
    missing, and every file is as large as it was. Files are moved, not copied, on a disk. A merge
    that was stopped goes on by the same call.

    Args:
        out: The folder, or its address, that all shards were told (``--out``).
        report: Write report.html, on a disk.

    Raises:
        DataError: If a shard is missing, unfinished, damaged, or of something else.
        ConfigError: If there is nothing to merge, or another run's masks are there.
        OutputError: If somebody else writes there, or nothing can be written.
    """
    there = place(out)
    with _alone(there):
        merged = read_merged(there, MERGED)
        left = there.folders("shards")
        if merged is not None and there.read_text(MARK) is None and not left:
            return _result(there, merged.asked.of)
        if merged is None:
            merged = _join(there, left)
        there.remove("shards")
        if report and there.local is not None:
            write_masks_report(there.local, call=f"merged from {merged.asked.of:,} shards")
        return _result(there, merged.asked.of)


@contextmanager
def _alone(out: Place) -> Iterator[None]:
    """Nobody else writes into a folder of a disk."""
    if out.local is None:
        yield
        return
    if not (out.local / "shards").is_dir() and not (out.local / MERGED).is_file():
        raise ConfigError(_nothing(out))
    with only_writer(out.local):
        yield


def _nothing(out: Place) -> str:
    return (
        f"{out} has no shards to merge. Name the folder that was given as --out to `ssrseg masks"
        " --shard ...` or `ssrseg predict --shard ...`."
    )


def _join(out: Place, folders: list[str]) -> Merged:
    moving = read_merged(out, MARK) is not None
    if not moving and out.read_text(MANIFEST) is not None:
        raise ConfigError(
            f"{out} holds masks of a run without shards beside its shards, which would be replaced."
            " Move its manifest.csv and masks away, or the folder shards."
        )
    records = _records(out, folders)
    first = next(iter(records.values()))
    _check_names(out, records)
    rows, tables = _tables(out, records)
    settings = _same_settings(out, {shard: records[shard] for shard in tables})
    moves = _moves(out, records, moving=moving)
    merged = Merged(first.asked, first.made_for, len(rows))
    write_merged(out, MARK, merged)
    with steps("Merging", len(moves)) as progress:
        for name in out.move(moves):
            progress.advance(PurePosixPath(name).name)
    out.write_text(MADE_FROM[first.asked.made_from], settings)
    joined = _joined_tables(tables)
    for name, text in joined.items():
        out.write_text(name, text)
    out.write_text(MANIFEST, manifest_text(rows))
    write_merged(out, MERGED, merged)
    return merged


def _records(out: Place, folders: list[str]) -> dict[Shard, Record]:
    """What every shard says of itself; DataError unless all of one number are there, finished."""
    shards = [shard for name in folders if (shard := shard_of_folder(name)) is not None]
    if not shards:
        raise ConfigError(_nothing(out))
    numbers = sorted({shard.of for shard in shards})
    if numbers[1:]:
        raise DataError(
            f"{out}/shards holds shards of {' and of '.join(map(str, numbers))}. Keep those of one"
            " number, and remove the other folders."
        )
    missing = sorted(set(range(1, numbers[0] + 1)) - {shard.number for shard in shards})
    if missing:
        raise DataError(
            f"{out}/shards lacks {_listed(missing, numbers[0])}. Run the same command with"
            f" --shard {missing[0]}/{numbers[0]}."
        )
    found = {}
    for shard in sorted(shards, key=lambda each: each.number):
        record = read_record(out, shard)
        if record is None or not record.finished:
            raise DataError(
                f"{out}/{shard.folder} is not finished. Wait for its job, or run the same command"
                f" with --shard {shard} again."
            )
        if record.number != shard.number or record.asked.of != shard.of:
            raise DataError(
                f"{out}/{shard.folder} is shard {record.number}/{record.asked.of} by its own"
                " shard.json. Give the folder its name back."
            )
        found[shard] = record
    first, asked = shards[0], found[shards[0]].asked
    for shard, record in found.items():
        if record.asked != asked:
            raise DataError(
                f"{out}/{shard.folder} and {out}/{first.folder} are no shards of one run:"
                f" {_difference(record, found[first])}. Run that with --shard {shard} again, as the"
                " others were run."
            )
    return found


def _listed(numbers: list[int], of: int) -> str:
    shown = ", ".join(f"{number}/{of}" for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if numbers[_SHOWN:] else ""
    return f"{'shard' if len(numbers) == 1 else 'shards'} {shown}{more}"


def _difference(one: Record, other: Record) -> str:
    words = {
        "source": "the list of all images was another one",
        "images": "the list of all images was another one",
        "made_from": "masks of one are from labels, those of the other by a model",
        "confidence": "only one was made with --confidence",
    }
    asked, others = vars(one.asked), vars(other.asked)
    return next(text for key, text in words.items() if asked[key] != others[key])


def _check_names(out: Place, records: Mapping[Shard, Record]) -> None:
    """Raise DataError for an image that is in two shards, in a wrong one, or in none."""
    owner: dict[str, Shard] = {}
    for shard, record in records.items():
        for name in record.names:
            if owner.setdefault(name, shard) != shard:
                raise DataError(
                    f'"{name}" is in {out}/{owner[name].folder} and in {out}/{shard.folder}. Give'
                    " the images of all packed files different names."
                )
            by_name = record.asked.images is not None
            if by_name and number_of(name, shard.of) != shard.number:
                raise DataError(
                    f'"{name}" in {out}/{shard.folder} belongs to shard'
                    f" {number_of(name, shard.of)}/{shard.of}. Run --shard {shard} again."
                )
    images = next(iter(records.values())).asked.images
    if images is not None and len(owner) != images:
        raise DataError(
            f"the shards of {out} were asked for {len(owner):,} of {images:,} images. Run all of"
            " them again; what is made already is not made anew."
        )


def _tables(
    out: Place, records: Mapping[Shard, Record]
) -> tuple[_Rows, dict[Shard, dict[str, str]]]:
    """Rows of the joint manifest, and the texts of the other tables by shard.

    Raises:
        DataError: If an image is neither in the manifest of its shard nor among its failures.
    """
    rows: _Rows = {}
    tables: dict[Shard, dict[str, str]] = {}
    for shard, record in records.items():
        if not record.names:
            continue
        names = (FAILURES, DOUBTS, "classes.txt", MADE_FROM[record.asked.made_from])
        texts = {name: out.read_text(f"{shard.folder}/{name}") for name in names}
        tables[shard] = {name: text for name, text in texts.items() if text is not None}
        manifest = _by_name(out.read_text(f"{shard.folder}/{MANIFEST}") or "")
        failed = _by_name(tables[shard].get(FAILURES, ""))
        made = {name for name in manifest if mask_path(name) in record.files}
        lost = [name for name in record.names if name not in failed and name not in made]
        if lost:
            raise DataError(
                f"{out}/{shard.folder} lacks the masks of {counted(len(lost), 'image', 'images')}"
                f' that it was asked for, such as "{lost[0]}". Run --shard {shard} again.'
            )
        for name in record.names:
            if name in manifest:
                row = manifest[name]
                rows[name] = row | {"image": _seen_from_out(out, shard, row["image"])}
    return rows, tables


def _by_name(text: str) -> _Rows:
    head, *lines = csv_rows(text) or [["name"]]
    return {row[0]: dict(zip(head, row, strict=False)) for row in lines}


def _seen_from_out(out: Place, shard: Shard, image: str) -> str:
    """A path as seen from the joint folder, that was seen from the shard's."""
    if out.local is None or not image or is_address(image) or os.path.isabs(image):
        return image
    root = os.path.realpath(out.local)
    return Path(os.path.relpath(os.path.join(root, shard.folder, image), root)).as_posix()


def _same_settings(out: Place, records: Mapping[Shard, Record]) -> str:
    """The settings file of all shards; DataError if they were made with different things."""
    texts = {
        shard: out.read_text(f"{shard.folder}/{MADE_FROM[record.asked.made_from]}") or ""
        for shard, record in records.items()
    }
    first, text = next(iter(texts.items()))
    made_with = _made_with(out, first, text)
    for shard, other in texts.items():
        found = change(made_with, _made_with(out, shard, other))
        if found.differences:
            raise DataError(
                f"{out}/{shard.folder} was made with other settings than {out}/{first.folder}"
                f" ({'; '.join(found.differences[:_SHOWN])}). Run --shard {shard} again with the"
                " settings of the others and --overwrite."
            )
    return text


def _made_with(out: Place, shard: Shard, text: str) -> MadeWith:
    found = read_made_with(text)
    if found is None:
        raise DataError(
            f"nothing in {out}/{shard.folder} says what its masks were made with. Run --shard"
            f" {shard} again with --overwrite."
        )
    return replace(found, files={})


def _moves(out: Place, records: Mapping[Shard, Record], *, moving: bool) -> dict[str, str]:
    """Where every file of the shards goes.

    Args:
        moving: An earlier call has moved some already.

    Raises:
        DataError: If one is not there, or not as large as it was.
    """
    at_home = (
        {f"{name}/{file}": size for name in _MOVED for file, size in out.sizes(name).items()}
        if moving
        else {}
    )
    moves: dict[str, str] = {}
    for shard, record in records.items():
        here = out.sizes(shard.folder)
        # not what an earlier list of images had, too
        asked = {place(name) for name in record.names for place in _PLACES}
        for name, size in record.files.items():
            if name not in asked:
                continue
            if name in here and here[name] == size:
                moves[f"{shard.folder}/{name}"] = name
            elif name in here or at_home.get(name) != size:
                state = f"has {here[name]:,} bytes" if name in here else "is missing"
                raise DataError(
                    f"{out}/{shard.folder}/{name} {state}; {size:,} were written. Run --shard"
                    f" {shard} again: what is whole stays."
                )
    return moves


def _joined_tables(tables: Mapping[Shard, Mapping[str, str]]) -> dict[str, str]:
    """classes.txt, and the tables of what failed and what is in doubt, if there is any."""
    found = {"classes.txt": next(iter(tables.values()))["classes.txt"]}
    for file in (FAILURES, DOUBTS):
        parts = [csv_rows(each[file]) for each in tables.values() if file in each]
        if parts:
            rows = sorted((row for part in parts for row in part[1:]), key=_ORDER[file])
            found[file] = "".join(map(csv_line, (parts[0][0], *rows)))
    return found


def _doubt_order(row: list[str]) -> tuple[bool, float, str]:
    """As ``review.write_doubts`` has them: given labels first, the most doubtful first."""
    name, _, given, evidence = row
    return given != "yes", float(evidence) * (1 if given == "yes" else -1), name


_ORDER = {FAILURES: lambda row: row[0], DOUBTS: _doubt_order}


def _result(out: Place, shards: int) -> MergeResult:
    masks = len(_by_name(out.read_text(MANIFEST) or ""))
    failures = len(_by_name(out.read_text(FAILURES) or ""))
    return MergeResult(str(out), shards, masks, failures)
