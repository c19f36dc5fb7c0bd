"""Find out which images a folder holds and what they show; no image and no mask is opened here."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ssrseg.console import printable
from ssrseg.data import coco
from ssrseg.data.classes import VOC_CLASSES, ClassList, class_key, read_classes
from ssrseg.data.files import user_path
from ssrseg.data.find_masks import find_masks
from ssrseg.data.label_files.addresses import paths_of
from ssrseg.data.label_files.check import check_rows
from ssrseg.data.label_files.class_folders import class_folders, read_class_folders
from ssrseg.data.label_files.find import (
    COCO,
    SUFFIXES,
    LabelFiles,
    find_label_files,
    label_format,
    only_table,
    passed_over,
    reader_for,
)
from ssrseg.data.label_files.lookup import ImagesOf
from ssrseg.data.label_files.rows import LabelRows, Row
from ssrseg.data.naming import IMAGE_FOLDERS, Names, match_masks, sample_name
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.text import fault_report, nearest, quoted, read_lines
from ssrseg.data.voc import read_annotations
from ssrseg.data.walk import list_images
from ssrseg.errors import DataError, LabelsError, counted, did_you_mean
from ssrseg.packaged import unpacked

_WORKBOOKS = (".xlsx", ".xls", ".ods", ".numbers")
_MAY_BE_LABELS = frozenset({
    ".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".xml", *_WORKBOOKS,
})  # fmt: skip
_INNER = ("annotations", "Annotations", *IMAGE_FOLDERS)  # folders of a data set
_SPLITS = Path("ImageSets", "Segmentation")
_TRUTHS = ("SegmentationClassAug", "SegmentationClass")  # the later one wins: VOC's own masks

CONVERT_ONEHOT = (
    'python -c "import numpy, ssrseg.data.classes as c;'
    " table = numpy.load('cls_labels_onehot.npy', allow_pickle=True).item();"
    " print('image,labels', *(f'JPEGImages/{name}.jpg,' + (';'.join("
    "word for word, on in zip(c.VOC_CLASSES, row) if on) or 'none')"
    ' for name, row in table.items()), sep=chr(10))" > labels.csv'
)
"""A command that turns the label file of other projects into labels.csv."""


def open_labelled(root: str | Path, *, split: str | None = None) -> LabelledImages:
    """Open a folder with labels, or a label file, whose images lie in its folder.

    The formats and the order in which they are looked for are in ``data.label_files.find`` and in
    docs/datasets.md. Labels never come from masks, of which only the file names are looked up, for
    scoring. Classes come from ``classes.txt`` or ``classes.yaml``, else they are those of the
    format, and elsewhere those that occur. A sample is called like its image below the folder, see
    ``sample_name``. ``ssrseg:photos/sample`` is a folder that comes with the package.

    A split is a part that the labels name, as folders, files or a column do, or a list of image
    names, ``ImageSets/Segmentation/<split>.txt`` or ``<split>.txt``; None = all images.

    Raises:
        DataError: If there are no labels, or the split does not fit them.
        LabelsError: If labels or classes are faulty, all faults of a file at once; or if there are
            several label files.
    """
    root = _data_path(root)
    try:
        if root.is_file():
            source, found = _open_file(root, split)
        else:
            _check_exists(root)
            source, found = _open(root, split)
    except OSError as error:
        raise DataError(
            f"{error.filename or root} cannot be read ({error.strerror}). Mend what is in the way,"
            " or copy the data elsewhere."
        ) from error
    return replace(found, source=source)


def _data_path(root: object) -> Path:
    return Path(unpacked(user_path(root, "a data set")))


def _open(root: Path, split: str | None) -> tuple[str, LabelledImages]:
    """By the order in ``label_files.find``; first what the labels were read from, in words."""
    listed = read_classes(root)
    own = root / "labels.csv"
    if own.exists():
        rows = LabelFiles("a table", {None: own}).read(root, listed)
        return own.name, _open_rows(root, split, rows, listed, passed_over(root, own.name))
    if coco.is_coco(root):
        others = passed_over(root, "annotations")
        return COCO, _open_coco(root, split, listed, coco.instances_files(root), others)
    if _is_labelled_voc(root):
        listed = listed or ClassList(VOC_CLASSES, source="VOC's class list")
        return "VOC's Annotations", _open_voc(root, split, listed)
    if root.name in _INNER and _is_labelled(root.parent):
        raise DataError(f"{_no_data_folder(root)} Did you mean {root.parent}?")
    files = find_label_files(root)
    if files is not None:
        names = (path.relative_to(root).as_posix() for path in files.files.values())
        return f"{', '.join(names)}, {files.format}", _open_files(root, split, files, listed)
    _refuse_neighbours(root)
    known = frozenset(map(class_key, listed.names)) if listed else frozenset()
    by_folder = read_class_folders(root, known)
    if by_folder is not None:
        if listed is None:  # a list says that the folders are meant
            folders = {row.image.rpartition("/")[0] for row in by_folder.rows}
            _refuse_labels_beside(root, folders)
        return "one folder per class", _open_rows(root, split, by_folder, listed)
    _refuse_unlabelled(root)


def _open_file(path: Path, split: str | None) -> tuple[str, LabelledImages]:
    """A label file by its path; first its name and format."""
    _refuse_packed(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path} is a file, but a data folder or a file of labels"
            f" ({', '.join(sorted(SUFFIXES))}) is expected. Give {path.parent}."
        )
    root = path.parent.parent if path.parent.name in ("annotations", "labels") else path.parent
    files = LabelFiles(reader_for(path), {None: path})
    return f"{path.name}, {files.format}", _open_files(root, split, files, read_classes(root))


def _open_files(
    root: Path, split: str | None, files: LabelFiles, listed: ClassList | None
) -> LabelledImages:
    if files.format == COCO:
        return _open_coco(
            root, split, listed, {part or path.stem: path for part, path in files.files.items()}
        )
    return _open_rows(root, split, files.read(root, listed), listed)


def _open_rows(
    root: Path,
    split: str | None,
    rows: LabelRows,
    listed: ClassList | None,
    notices: tuple[str, ...] = (),
) -> LabelledImages:
    """Samples of what a format's module has read."""
    if listed is None and _is_voc(root):
        listed = ClassList(VOC_CLASSES, source="VOC's class list")
    found = check_rows(rows, root, listed)
    images = {sample_name(row.image): root / row.image for row in found.rows}
    labels = {sample_name(row.image): row.labels for row in found.rows}
    parts: dict[str, list[str]] = {}
    for row in found.rows:
        if row.split is not None:
            parts.setdefault(row.split, []).append(sample_name(row.image))
    notices += found.notices
    if split in parts:
        chosen = parts[split]
    else:
        chosen = _choose(root, split, images, rows.source.name, parts)
        notices += _splits_notice(parts, split)
    return _labelled(root, found.classes, images, labels, chosen, listed, notices)


def _splits_notice(parts: Mapping[str, list[str]], split: str | None) -> tuple[str, ...]:
    if not parts or split is not None:
        return ()
    shown = ", ".join(f"{printable(part)} {len(names):,}" for part, names in parts.items())
    return (f"The images of all splits are used: {shown}. --split NAME takes one.",)


def _open_voc(root: Path, split: str | None, listed: ClassList) -> LabelledImages:
    """Samples of a tree in the layout of VOC 2012, with its annotations."""
    images, notices = _images_by_name(root / "JPEGImages")
    chosen = _choose(root, split, images, "JPEGImages")
    present, more = read_annotations(root / "Annotations", chosen, listed)
    labels = dict(zip(chosen, present, strict=True))
    notices += more + passed_over(root, "Annotations")
    return _labelled(root, listed.names, images, labels, chosen, listed, notices)


def _labelled(
    root: Path,
    classes: tuple[str, ...],
    images: Mapping[str, Path],
    labels: Mapping[str, tuple[int, ...]],
    chosen: list[str],
    listed: ClassList | None,
    notices: tuple[str, ...],
) -> LabelledImages:
    """The chosen images with their true masks, and what a list of classes says beside the names."""
    truths, more = _truths(root, chosen, lambda: images)
    samples = (Sample(name, images[name], labels[name], truths.get(name)) for name in chosen)
    own = listed or ClassList(classes)
    notices = own.notices + notices + more
    return LabelledImages(root, classes, tuple(samples), own.prompts, notices, own.background)


def labelled_images(data: LabelledImages | str | Path) -> LabelledImages:
    """Data that are open already, or a folder opened by ``open_labelled``."""
    return data if isinstance(data, LabelledImages) else open_labelled(data)


def open_images(root: str | Path, *, split: str | None = None) -> dict[str, Path]:
    """Images by name of the sample, in the order of a list, for prediction: no labels are needed.

    The folder is one that ``open_labelled`` opens, or it has VOC's images and lists alone.

    Raises:
        DataError: If there are no such images, or the split does not fit them.
    """
    root = _data_path(root)
    if _is_voc(root) and not coco.is_coco(root):
        images, _ = _images_by_name(root / "JPEGImages")
        return {name: images[name] for name in _choose(root, split, images, "JPEGImages")}
    return {sample.name: sample.image for sample in open_labelled(root, split=split).samples}


def _truths(
    root: Path, names: list[str], everyone: Callable[[], Iterable[str]]
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """True masks by name of the sample, and a notice of masks that may be of several images."""
    truths: dict[str, Path] = {}
    unclear: list[str] = []
    for folder in _TRUTHS:
        found, ambiguous = match_masks(names, find_masks(root / folder), everyone)
        truths |= found
        unclear += ambiguous
    left = [name for name in dict.fromkeys(unclear) if name not in truths]
    if not left:
        return truths, ()
    return truths, (
        f"{counted(len(left), 'image has', 'images have')} no true mask, because it cannot be told"
        f" which one is theirs: call that of {quoted(left[0])} {_TRUTHS[-1]}/{printable(left[0])}"
        ".png.",
    )


def _open_coco(
    root: Path,
    split: str | None,
    listed: ClassList | None,
    files: Mapping[str, Path],
    others: tuple[str, ...] = (),
) -> LabelledImages:
    """Samples named like their images, which need not lie in COCO's own folders."""
    whole, notices = coco.whole_data(root, files)
    folder = Path(os.path.commonpath([file.parent for file in files.values()]))
    parts = [split] if split is not None and split in files else whole
    tables = {part: coco.read_label_table(files[part]) for part in parts}
    classes = next(iter(tables.values())).classes
    if any(table.classes != classes for table in tables.values()):
        raise LabelsError(
            f"{folder}: the files of {_listing(tables)} list other categories. Open one"
            " of them (as split), or write the same list into all."
        )
    images: dict[str, str] = {}
    labels: dict[str, tuple[int, ...]] = {}
    lookup = ImagesOf(root)
    for part, table in tables.items():
        paths = coco.find_images(root, files[part], table.labels)
        if not table.is_cocos:
            paths |= _by_end(lookup, table.labels.keys() - paths.keys())
        _check_coco_part(root, files[part], table, paths)
        names = {file: sample_name(path) for file, path in paths.items()}
        coco.check_apart(root, names)
        for file, name in names.items():
            if images.setdefault(name, paths[file]) != paths[file]:
                coco.check_apart(root, {images[name]: name, paths[file]: name})
            if labels.setdefault(name, table.labels[file]) != table.labels[file]:
                raise LabelsError(
                    f"{folder}: {quoted(file)} is in the files of {_listing(tables)} with"
                    " different labels. Keep it in one of them."
                )
    if not images:
        raise LabelsError(f"{folder}: no image of {_listing(tables)} has an annotation.")
    if listed is not None and listed.names != classes:
        raise LabelsError(
            f"{root} has a class list of its own ({len(listed.names)} names), which is not that of"
            f" its annotations ({len(classes)} names, by category id). Remove it; a classes.yaml"
            " with exactly those names in that order may give prompts."
        )
    chosen = _choose(root, None if split in files else split, images, "the annotations", files)

    def everyone() -> set[str]:
        others = {part: coco.read_label_table(files[part]) for part in whole if part not in tables}
        found = (coco.sample_names(root, files[part], each.labels) for part, each in others.items())
        return set(images).union(*(names.values() for names in found))

    truths, more = _truths(root, chosen, everyone)
    samples = (Sample(name, root / images[name], labels[name], truths.get(name)) for name in chosen)
    said = dict.fromkeys(notice for table in tables.values() for notice in table.notices)
    notices = () if split in files else notices
    notices = (*others, *notices, *said, *_without_instance(tables, files), *more)
    own = listed or ClassList(classes)
    return LabelledImages(root, classes, tuple(samples), own.prompts, notices, own.background)


def _by_end(lookup: ImagesOf, names: Iterable[str]) -> dict[str, str]:
    """Images that lie elsewhere, by the ends of their paths."""
    found = {name: lookup.find(Row("", name, also=paths_of(name)))[0] for name in sorted(names)}
    return {name: path for name, path in found.items() if path is not None}


def _without_instance(
    tables: Mapping[str, coco.LabelTable], files: Mapping[str, Path]
) -> Iterator[str]:
    """A notice of the images that each file lists in vain."""
    for part, table in tables.items():
        if left := table.images - len(table.labels):
            images = f"{left:,} of {counted(table.images, 'image', 'images')}"
            yield (
                f"{printable(files[part].name)}: {images} left out, without an annotation: COCO's"
                " lists for this task are of images with an instance."
            )


def _check_coco_part(
    root: Path, file: Path, table: coco.LabelTable, found: Collection[str]
) -> None:
    """Raise DataError if images of an instances file are missing."""
    missing = [name for name in table.labels if name not in found]
    if missing:
        folders = coco.image_folders(root, file)
        cure = f"They are looked for in {', '.join(f'{root / folder}' for folder in folders)}."
        if table.is_cocos:
            cure = (
                f"`ssrseg prepare coco --data {root}` says what is missing and where it comes from."
            )
        raise DataError(
            f"{root} lacks {len(missing)} of {len(table.labels)} images of {file.name} (such as"
            f" {printable(missing[0])}). {cure}"
        )


def _listing(names: Iterable[str]) -> str:
    return " and ".join(names)


def _is_voc(root: Path) -> bool:
    return (root / "JPEGImages").is_dir() and (root / "ImageSets").is_dir()


def _is_labelled_voc(root: Path) -> bool:
    return _is_voc(root) and (root / "Annotations").is_dir()


def _is_labelled(root: Path) -> bool:
    return _is_labelled_voc(root) or (root / "labels.csv").exists() or coco.is_coco(root)


def _check_exists(root: Path) -> None:
    if not root.exists():
        siblings = os.listdir(root.parent) if root.parent.is_dir() else []
        raise DataError(
            f"data folder {root} does not exist.{did_you_mean(root.name, siblings)} Give a folder"
            " with labels.csv, or one in the VOC 2012 layout."
        )


def _refuse_neighbours(root: Path) -> None:
    """Say what is meant, if it is one folder too high or too deep; or what VOC's layout lacks."""
    if _is_voc(root) and (root / "cls_labels_onehot.npy").exists():
        raise DataError(
            f"{root / 'cls_labels_onehot.npy'} is a pickle, which can run any code when it is"
            " loaded, so ssrseg does not read it. If you trust its source, convert it once, in"
            f" that folder: {CONVERT_ONEHOT}"
        )
    if _is_voc(root):
        raise DataError(
            f"{root} has the VOC 2012 layout but no image-level labels: neither labels.csv nor the"
            " folder Annotations is there. Copy Annotations from VOC 2012, or write labels.csv"
            ' (header "image,labels", then lines such as "JPEGImages/2007_000063.jpg,chair;dog").'
        )
    places = (root.parent, *sorted(root.iterdir()), root / "VOCdevkit" / "VOC2012")
    near = [folder for folder in places if _is_labelled(folder) or _is_voc(folder)]
    # folders of classes may lie beside labels of something else
    if near and (near[0] != root.parent or class_folders(root) is None):
        raise DataError(f"{_no_data_folder(root)} Did you mean {near[0]}?")


def _refuse_labels_beside(root: Path, folders: Collection[str]) -> None:
    """Raise DataError if a file may hold the labels instead of the folders, such as days."""
    for folder in ("", *sorted(folders)):
        for path in sorted((root / folder).iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in _MAY_BE_LABELS or label_format(path) is not None:
                raise DataError(
                    f"{root} has folders that may be classes, and a file that may hold the labels,"
                    f" {printable(path.relative_to(root).as_posix())}. If it does, give it"
                    f" (--data {path}), and what is wrong with it is said. If the folders are the"
                    " classes, move the file away, or list them in classes.txt."
                )


def _refuse_unlabelled(root: Path) -> NoReturn:
    """Nothing says what the images of a folder show."""
    for path in sorted(root.iterdir()):
        _refuse_packed(path)
    file = only_table(root)
    if file is not None:  # what is wrong with it is said, with its line
        LabelFiles(reader_for(file), {None: file}).read(root, None)
    raise DataError(
        f'{_no_data_folder(root)} Write labels.csv there: the header "image,labels", then a line'
        ' such as "images/a.jpg,cat;dog" for each image.'
    )


def _refuse_packed(path: Path) -> None:
    """Say how to take labels out of a file that is not read."""
    suffix = path.suffix.lower()
    if suffix in _WORKBOOKS:
        raise DataError(
            f"{path} is a workbook of a spreadsheet program, which ssrseg does not read. Save the"
            ' sheet with the labels as CSV there (Excel calls it "CSV UTF-8").'
        )
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        raise DataError(f"{path} is an archive. Unpack it, and give the folder that comes out.")


def _no_data_folder(root: Path) -> str:
    names = sorted(os.listdir(root))
    there = printable(", ".join(names[:5])) + (f" and {len(names) - 5} more" if names[5:] else "")
    return (
        f"{root} is no data folder: no labels.csv, no other label file that ssrseg knows, no layout"
        f" of VOC 2012 or COCO, and no folder per class is in it. It holds {there or 'nothing'}."
    )


def _images_by_name(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Images by name of the sample, and a notice of the other files."""
    images: dict[str, Path] = {}
    listed = list_images(folder)
    for image in listed.images:
        name = sample_name(image.relative_to(folder.parent).as_posix())
        if name in images:
            raise DataError(
                f"{folder} holds both {printable(images[name].name)} and {printable(image.name)},"
                " which have the same name up to the suffix. Remove one."
            )
        images[name] = image
    return images, (f"{folder}: {listed} passed over.",) if str(listed) else ()


def _choose(
    root: Path, split: str | None, images: Iterable[str], where: str, parts: Iterable[str] = ()
) -> list[str]:
    """Names of the images in a list, in its order; ``parts`` are other splits that there are."""
    known = dict.fromkeys(images)
    if split is None:
        return list(known)
    paths = [root / _SPLITS / f"{split}.txt", root / f"{split}.txt"]
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        lists = (*(root / _SPLITS).glob("*.txt"), *root.glob("*.txt"))
        there = sorted({file.stem for file in lists} - {"classes"})
        there = [*parts, *there]
        raise DataError(
            f'split "{split}" is unknown: neither {paths[0]} nor {paths[1]} exists.'
            f"{did_you_mean(split, there)}"
            + (f" The splits are: {', '.join(there)}." if there else "")
            + " Without a split, all labelled images are used."
        )
    faults: list[str] = []
    first: dict[str, int] = {}
    names = Names(known)
    for line, name in read_lines(path, errors="surrogateescape"):
        found = names.like(name.replace("\\", "/"))
        if len(found) > 1:
            faults.append(
                f"line {line}: {quoted(name)} may be {quoted(found[0])} or {quoted(found[1])}."
                " Write the whole name."
            )
        elif not found:
            plain = names.like(sample_name(name.replace("\\", "/")))
            near = nearest(name, known, faults)
            if len(plain) == 1:
                near = f" Write {quoted(plain[0])}, without suffix and without images/ before it."
            faults.append(f"line {line}: there is no image {quoted(name)} in {where}.{near}")
        elif first.setdefault(found[0], line) != line:
            at = first[found[0]]
            faults.append(f"line {line}: {quoted(name)} is already on line {at}. Remove one.")
    if faults:
        raise DataError(fault_report(path, faults))
    if not first:
        raise DataError(f"{path} names no image. Write one image name per line, without suffix.")
    return list(first)
