"""VOC 2012 with SBD's masks: the lists, the labels and the masks that training and scoring need."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from ssrseg.config import Config
from ssrseg.console import CheckResult, steps
from ssrseg.data.files import atomic_write, has_content
from ssrseg.data.images import write_class_ids
from ssrseg.data.open import open_labelled
from ssrseg.data.sample import LabelledImages
from ssrseg.data.text import read_lines
from ssrseg.prepare.archives import SBD, VOC_TEST, VOC_TRAINVAL, Archive
from ssrseg.prepare.sbd import HOMES, find_sbd, read_sbd, train_aug
from ssrseg.prepare.steps import (
    Gap,
    Origin,
    Prepared,
    check_root,
    counted,
    obtain,
    report_gaps,
    store_superpixels,
)
from ssrseg.prepare.workers import in_processes

PUBLISHED = {"train": 1464, "train_aug": 10582, "val": 1449, "test": 1456}
"""Images of each list."""

_AUG = "SegmentationClassAug"


def prepare_voc(
    root: Path,
    *,
    config: Config | None = None,
    download: bool = False,
    mirror: str | None = None,
    superpixels: Path | None = None,
    split: str | None = None,
    workers: int = 1,
) -> Prepared:
    """Complete a VOC 2012 tree as far as possible, and say what it lacks.

    Writes ``ImageSets/Segmentation/train_aug.txt`` and ``SegmentationClassAug``, where they are
    missing. Image-level labels stay where they are, in VOC's Annotations: they exist for all
    images, SBD's included, and no mask is asked for them.

    Args:
        root: The tree: JPEGImages, Annotations, ImageSets, SegmentationClass.
        config: For superpixels; None = preset ``ssr``.
        download: Fetch the archives that provide what is missing.
        mirror: Address of the archives, instead of the official ones.
        superpixels: Cache folder for superpixels; None = compute none.
        split: List whose images get superpixels; None = ``train_aug`` and ``val``.
        workers: Processes.

    Raises:
        DataError: If the folder is a wrong one, an archive cannot be had, or a file is damaged.
        LabelsError: If annotations are faulty.
    """
    own, inner = ("JPEGImages", "ImageSets"), ("VOCdevkit/VOC2012", "VOC2012")
    check_root(root, "VOC 2012", own=own, inner=inner, may_be_new=download)
    origin = Origin(root / "downloads", download, mirror)
    gaps = _fill(root, origin)
    findings = [
        counted(name, _names(root, name), PUBLISHED[name])
        for name in ("train", "train_aug", "val")
        if _list_file(root, name).is_file()
    ]
    findings += [*_leak(root), *_of_others(root), *report_gaps(gaps, origin)]
    made = _write_masks(root, workers)
    if not gaps:
        labelled = {name: open_labelled(root, split=name) for name in ("train_aug", "val")}
        findings += [_labels(name, data) for name, data in labelled.items()]
        findings.append(CheckResult("true masks", f"{_AUG}: {made:,} written now"))
        if superpixels is not None:
            chosen = [open_labelled(root, split=split)] if split else labelled.values()
            samples = {sample.name: sample for data in chosen for sample in data.samples}
            store_superpixels(
                tuple(samples.values()), superpixels, config or Config(), workers=workers
            )
            findings.append(CheckResult("superpixels", f"{len(samples):,} images in {superpixels}"))
    findings.append(_test(root, origin))
    return Prepared(root, tuple(findings))


def _fill(root: Path, origin: Origin) -> list[Gap]:
    """Obtain what is missing, archive by archive; what remains."""
    if _test_gap(root) is not None:
        obtain(VOC_TEST, root, origin)
    tried: set[str] = set()
    while True:
        _write_train_aug(root)
        gaps = _gaps(root)
        wanted = {gap.archive.name: gap.archive for gap in gaps if gap.archive.name not in tried}
        if not wanted:
            return gaps
        for archive in wanted.values():
            tried.add(archive.name)
            obtain(archive, root / HOMES[0] if archive == SBD else root, origin)


def _gaps(root: Path) -> list[Gap]:
    """What the lists name and the folders lack."""
    bare = [name for name in ("train", "val") if not _list_file(root, name).is_file()]
    if bare:
        return [Gap("lists", 2, tuple(f"{name}.txt" for name in bare), VOC_TRAINVAL)]
    gaps = []
    own = [*_names(root, "train"), *_names(root, "val")]
    if not _list_file(root, "train_aug").is_file():
        gaps.append(Gap("list train_aug", 1, ("train_aug.txt",), SBD))
        extra = []
    else:
        extra = sorted(set(_names(root, "train_aug")) - set(own))

    def look(what: str, names: Collection[str], there: set[str], archive: Archive) -> None:
        missing = tuple(name for name in names if name not in there)
        if missing:
            gaps.append(Gap(what, len(names), missing, archive))

    everything = [*own, *extra]
    look("images", everything, _stems(root / "JPEGImages", ".jpg"), VOC_TRAINVAL)
    if not (root / "labels.csv").is_file():
        look("annotations", everything, _stems(root / "Annotations", ".xml"), VOC_TRAINVAL)
    made = _stems(root / _AUG, ".png")
    official = root / "SegmentationClass"  # wins by name, so an empty one is not made up for
    named = {file.stem for file in official.iterdir()} if official.is_dir() else set()
    look("masks of VOC", own, (made - named) | _stems(official, ".png"), VOC_TRAINVAL)
    sbd = find_sbd(root)
    look("masks of SBD", extra, made | (_stems(sbd / "cls", ".mat") if sbd else set()), SBD)
    return gaps


def _write_train_aug(root: Path) -> None:
    """Derive the list, if it is not there and what it is made of is."""
    path = _list_file(root, "train_aug")
    if path.is_file() or not _lists(root):
        return
    train, val = _names(root, "train"), _names(root, "val")
    sbd, made = find_sbd(root), _stems(root / _AUG, ".png")
    if sbd is not None:
        added = [name for part in ("train", "val") for _, name in read_lines(sbd / f"{part}.txt")]
    elif made - {*train, *val}:  # converted by others: the masks' names are SBD's lists
        added = sorted(made)
    else:
        return
    names = train_aug(train, val, added)
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _write_masks(root: Path, workers: int) -> int:
    """SegmentationClassAug: VOC's own masks of its train and val, SBD's of the others."""
    if not all(_list_file(root, name).is_file() for name in ("train", "val", "train_aug")):
        return 0
    made = _stems(root / _AUG, ".png")
    own = _stems(root / "SegmentationClass", ".png")
    official = {*_names(root, "train"), *_names(root, "val")} & own
    sbd = find_sbd(root)
    extra = _stems(sbd / "cls", ".mat") & set(_names(root, "train_aug")) if sbd else set()
    todo = [root / "SegmentationClass" / f"{name}.png" for name in sorted(official - made)]
    if sbd:
        todo += [sbd / "cls" / f"{name}.mat" for name in sorted(extra - official - made)]
    with steps("Masks", len(todo)) as progress:
        for name in in_processes(partial(_write_mask, folder=root / _AUG), todo, workers):
            progress.advance(name)
    return len(todo)


def _write_mask(source: Path, *, folder: Path) -> str:
    target = folder / f"{source.stem}.png"
    if source.suffix == ".mat":
        write_class_ids(target, read_sbd(source))
    else:  # VOC's file as it is
        with atomic_write(target) as temporary:
            temporary.write_bytes(source.read_bytes())
    return source.stem


def _labels(name: str, data: LabelledImages) -> CheckResult:
    count = int(data.labels.sum())
    return CheckResult(f"labels of {name}", f"{count:,} classes in {len(data):,} images")


def _test_gap(root: Path) -> Gap | None:
    """What the list for the VOC server and its images lack."""
    if not _list_file(root, "test").is_file():
        return Gap("list", 1, ("test.txt",), VOC_TEST)
    names, there = _names(root, "test"), _stems(root / "JPEGImages", ".jpg")
    missing = tuple(name for name in names if name not in there)
    return Gap("images", len(names), missing, VOC_TEST) if missing else None


def _test(root: Path, origin: Origin) -> CheckResult:
    """The test list is for the server alone; without it nothing else suffers."""
    gap = _test_gap(root)
    if gap is None:
        return counted("test", _names(root, "test"), PUBLISHED["test"])
    lacking = (
        "no list" if gap.what == "list" else f"{len(gap.missing):,} of {gap.total:,} images missing"
    )
    return CheckResult(
        "test",
        f"{lacking}; only needed for the VOC server, which gives {VOC_TEST.name} to registered"
        f" users: put it into {origin.downloads}",
    )


def _leak(root: Path) -> list[CheckResult]:
    """Images of val in a training list that somebody else has written."""
    if not all(_list_file(root, name).is_file() for name in ("train_aug", "val")):
        return []
    both = sorted(set(_names(root, "train_aug")) & set(_names(root, "val")))
    if not both:
        return []
    path = _list_file(root, "train_aug")
    return [
        CheckResult(
            "train_aug and val",
            f"{len(both):,} images are in both",
            f"{both[0]} and others would be trained on and scored. Remove {path}; the same command"
            " derives it anew.",
        )
    ]


def _of_others(root: Path) -> list[CheckResult]:
    """Images of train and val that have no mask of VOC's own, and another one in its place."""
    names = [*_names(root, "train"), *_names(root, "val")] if _lists(root) else []
    own, made = _stems(root / "SegmentationClass", ".png"), _stems(root / _AUG, ".png")
    others = [name for name in names if name in made and name not in own]
    if not others:
        return []
    return [
        CheckResult(
            "masks of VOC",
            f"{len(others):,} of {len(names):,} have one in {_AUG} only. If those were converted"
            " from SBD, scores are not comparable, as SBD marks no undecided outlines: VOC's own"
            " belong into SegmentationClass",
        )
    ]


def _lists(root: Path) -> bool:
    return all(_list_file(root, name).is_file() for name in ("train", "val"))


def _list_file(root: Path, name: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{name}.txt"


def _names(root: Path, name: str) -> list[str]:
    return [text for _, text in read_lines(_list_file(root, name))]


def _stems(folder: Path, suffix: str) -> set[str]:
    """Names in a folder, from one listing; an empty file is none."""
    if not folder.is_dir():
        return set()
    return {file.stem for file in folder.iterdir() if file.suffix == suffix and has_content(file)}
