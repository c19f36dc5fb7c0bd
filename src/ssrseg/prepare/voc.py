"""VOC 2012 with SBD's masks: the lists, the labels and the masks that training and scoring need."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ssrseg.config import Config
from ssrseg.console import CheckResult
from ssrseg.data.class_ids import write_class_ids
from ssrseg.data.files import atomic_write, has_content, user_path
from ssrseg.data.open import open_labelled
from ssrseg.data.text import read_lines
from ssrseg.prepare import steps
from ssrseg.prepare.archives import SBD, VOC_TEST, VOC_TRAINVAL
from ssrseg.prepare.sbd import SBD_FOLDERS, find_sbd, read_sbd, train_aug
from ssrseg.prepare.workers import run_all

PUBLISHED = {"train": 1464, "train_aug": 10582, "val": 1449, "test": 1456}
"""Images of each list."""

_AUG = "SegmentationClassAug"


def prepare_voc(
    root: str | Path,
    *,
    config: Config | None = None,
    download: bool | str = False,
    superpixels: str | Path | None = None,
    split: str | None = None,
    workers: int = 1,
) -> steps.Prepared:
    """Complete a VOC 2012 tree as far as possible, and say what it lacks.

    Writes ``ImageSets/Segmentation/train_aug.txt`` and ``SegmentationClassAug``, where they are
    missing. Image-level labels stay where they are, in VOC's Annotations: they exist for all
    images, SBD's included, and no mask is asked for them.

    Args:
        root: The tree: JPEGImages, Annotations, ImageSets, SegmentationClass.
        config: For superpixels; None = preset ``ssr``.
        download: Fetch the archives that provide what is missing; a text is the address of a
            server that has them by their names, instead of the official ones.
        superpixels: Cache folder for superpixels; None = compute none.
        split: List whose images get superpixels; None = ``train_aug`` and ``val``.
        workers: Processes.

    Raises:
        DataError: If the folder is a wrong one, an archive cannot be had, or a file is damaged.
        LabelsError: If annotations are faulty.
    """
    root = user_path(root, "a data set")
    own, inner = ("JPEGImages", "ImageSets"), ("VOCdevkit/VOC2012", "VOC2012")
    steps.check_root(root, "VOC 2012", own=own, inner=inner, may_be_new=bool(download))
    mirror = download if isinstance(download, str) else None
    source = steps.ArchiveSource(root / "downloads", bool(download), mirror)
    missing = _complete(root, source)
    tree = _Tree(root)
    checks = [tree.count(name) for name in ("train", "train_aug", "val") if name in tree.lists]
    checks += [*_leak(tree), *_masks_of_others(tree), *steps.report_missing(missing, source)]
    written = _write_masks(tree, workers)
    if not missing:
        labelled = {name: open_labelled(root, split=name) for name in ("train_aug", "val")}
        for name, data in labelled.items():
            found = f"{int(data.labels.sum()):,} classes in {len(data):,} images"
            checks.append(CheckResult(f"labels of {name}", found))
        checks.append(CheckResult("true masks", f"{_AUG}: {written:,} written now"))
        if superpixels is not None:
            chosen = [open_labelled(root, split=split)] if split else labelled.values()
            checks.append(steps.store_superpixels(chosen, Path(superpixels), config, workers))
    checks.append(_test_list(tree, source))
    return steps.Prepared(root, tuple(checks))


class _Tree:
    """A VOC tree as it is now: its lists, and names of files that are there and not empty."""

    def __init__(self, root: Path) -> None:
        self.root, self.sbd = root, find_sbd(root)
        files = {name: self.list_file(name) for name in PUBLISHED}
        self.lists = {name: _names(file) for name, file in files.items() if file.is_file()}
        self.has_own_lists = {"train", "val"} <= self.lists.keys()
        self.own = [*self.lists.get("train", ()), *self.lists.get("val", ())]
        self.added = sorted(set(self.lists.get("train_aug", ())) - set(self.own))
        self.images = _stems(root / "JPEGImages", ".jpg")
        self.annotations = _stems(root / "Annotations", ".xml")
        self.own_masks = _stems(root / "SegmentationClass", ".png")
        self.aug_masks = _stems(root / _AUG, ".png")
        self.sbd_masks = _stems(self.sbd / "cls", ".mat") if self.sbd else set()

    def list_file(self, name: str) -> Path:
        return self.root / "ImageSets" / "Segmentation" / f"{name}.txt"

    def count(self, name: str) -> CheckResult:
        """A list beside its published length, which a part of the data set will not have."""
        count, published = len(self.lists[name]), PUBLISHED[name]
        note = "" if count == published else f"; the published list has {published:,}"
        return CheckResult(name, f"{count:,} images{note}")


def _names(file: Path) -> list[str]:
    return [name for _, name in read_lines(file)]


def _stems(folder: Path, suffix: str) -> set[str]:
    if not folder.is_dir():
        return set()
    return {file.stem for file in folder.iterdir() if file.suffix == suffix and has_content(file)}


def _complete(root: Path, source: steps.ArchiveSource) -> list[steps.MissingFiles]:
    """Unpack what is missing, archive by archive; what remains."""
    if _missing_for_test(_Tree(root)):
        source.unpack(VOC_TEST, root)
    tried: set[str] = set()
    while True:
        _write_train_aug(_Tree(root))
        missing = _missing(_Tree(root))
        archives = {each.archive.name: each.archive for each in missing}
        if archives.keys() <= tried:
            return missing
        for name, archive in archives.items():
            if name not in tried:
                source.unpack(archive, root / SBD_FOLDERS[0] if archive == SBD else root)
        tried |= archives.keys()


def _missing(tree: _Tree) -> list[steps.MissingFiles]:
    """What the lists name and the folders lack."""
    lists = [f"{name}.txt" for name in tree.lists]
    missing = steps.missing_files("lists", ("train.txt", "val.txt"), lists, VOC_TRAINVAL)
    if missing:
        return missing
    missing += steps.missing_files("list train_aug", ["train_aug.txt"], lists, SBD)
    everything = [*tree.own, *tree.added]
    missing += steps.missing_files("images", everything, tree.images, VOC_TRAINVAL)
    if not (tree.root / "labels.csv").is_file():
        missing += steps.missing_files("annotations", everything, tree.annotations, VOC_TRAINVAL)
    # a mask in SegmentationClass wins by its name, so another one does not make up for an empty one
    empty = {file.stem for file in (tree.root / "SegmentationClass").glob("*")} - tree.own_masks
    masks = (tree.aug_masks - empty) | tree.own_masks
    missing += steps.missing_files("masks of VOC", tree.own, masks, VOC_TRAINVAL)
    masks = tree.aug_masks | tree.sbd_masks
    return missing + steps.missing_files("masks of SBD", tree.added, masks, SBD)


def _write_train_aug(tree: _Tree) -> None:
    """Derive the list, if it is not there and what it is made of is."""
    if "train_aug" in tree.lists or not tree.has_own_lists:
        return
    if tree.sbd is not None:
        added = _names(tree.sbd / "train.txt") + _names(tree.sbd / "val.txt")
    elif tree.aug_masks - set(tree.own):  # converted by others: the masks' names are SBD's lists
        added = sorted(tree.aug_masks)
    else:
        return
    names = train_aug(tree.lists["train"], tree.lists["val"], added)
    with atomic_write(tree.list_file("train_aug")) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _write_masks(tree: _Tree, workers: int) -> int:
    """SegmentationClassAug: VOC's own masks of its train and val, SBD's of the others."""
    if not tree.has_own_lists or "train_aug" not in tree.lists:
        return 0
    own = sorted((set(tree.own) & tree.own_masks) - tree.aug_masks)
    todo = [tree.root / "SegmentationClass" / f"{name}.png" for name in own]
    if tree.sbd is not None:
        listed = set(tree.lists["train_aug"]) & tree.sbd_masks
        added = sorted(listed - (set(tree.own) & tree.own_masks) - tree.aug_masks)
        todo += [tree.sbd / "cls" / f"{name}.mat" for name in added]
    work = partial(_write_mask, folder=tree.root / _AUG)
    run_all(work, todo, workers, "Masks", len(todo))
    return len(todo)


def _write_mask(source: Path, *, folder: Path) -> str:
    target = folder / f"{source.stem}.png"
    if source.suffix == ".mat":
        write_class_ids(target, read_sbd(source))
    else:  # VOC's file as it is
        with atomic_write(target) as temporary:
            temporary.write_bytes(source.read_bytes())
    return source.stem


def _missing_for_test(tree: _Tree) -> list[steps.MissingFiles]:
    """What the list for the VOC server and its images lack."""
    if "test" not in tree.lists:
        return steps.missing_files("list", ["test.txt"], (), VOC_TEST)
    return steps.missing_files("images", tree.lists["test"], tree.images, VOC_TEST)


def _test_list(tree: _Tree, source: steps.ArchiveSource) -> CheckResult:
    """The test list is for the server alone; without it nothing else suffers."""
    missing = _missing_for_test(tree)
    if not missing:
        return tree.count("test")
    lacking = f"{len(missing[0].names):,} of {missing[0].total:,} images missing"
    return CheckResult(
        "test",
        f"{lacking if 'test' in tree.lists else 'no list'}; only needed for the VOC server, which"
        f" gives {VOC_TEST.name} to registered users: put it into {source.downloads}",
    )


def _leak(tree: _Tree) -> list[CheckResult]:
    """Images of val in a training list that somebody else has written."""
    both = sorted(set(tree.lists.get("train_aug", ())) & set(tree.lists.get("val", ())))
    if not both:
        return []
    cure = f"{both[0]} and others would be trained on and scored. Remove"
    cure += f" {tree.list_file('train_aug')}; the same command derives it anew."
    return [CheckResult("train_aug and val", f"{len(both):,} images are in both", cure)]


def _masks_of_others(tree: _Tree) -> list[CheckResult]:
    """Images of train and val that have no mask of VOC's own, and another one in its place."""
    names = tree.own if tree.has_own_lists else []
    others = [name for name in names if name in tree.aug_masks and name not in tree.own_masks]
    if not others:
        return []
    found = (
        f"{len(others):,} of {len(names):,} have one in {_AUG} only. If those were converted from"
        " SBD, scores are not comparable, as SBD marks no undecided outlines: VOC's own belong into"
        " SegmentationClass"
    )
    return [CheckResult("masks of VOC", found)]
