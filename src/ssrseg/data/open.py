"""Find out which images a folder holds and what they show; no image and no mask is opened here."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath

from ssrseg.data import coco
from ssrseg.data.classes import VOC_CLASSES, read_classes
from ssrseg.data.files import user_path
from ssrseg.data.labels_csv import IMAGE_FOLDERS, read_labels_csv
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.text import fault_report, nearest, read_lines
from ssrseg.data.voc import read_annotations
from ssrseg.data.walk import list_images
from ssrseg.errors import DataError, LabelsError, did_you_mean

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
    """Open a folder with ``labels.csv``, or one in the layout of VOC 2012 or COCO 2014.

    Labels come from ``labels.csv`` where there is one, else from ``Annotations`` (VOC) or from the
    categories in ``annotations/instances_*2014.json`` (COCO); never from masks, of which only the
    file names are looked up, for scoring. Classes come from ``classes.txt`` or ``classes.yaml``,
    else they are those of VOC or COCO, and elsewhere those that occur in ``labels.csv``.

    A split is a list of image names, ``ImageSets/Segmentation/<split>.txt`` or ``<split>.txt``, and
    in a COCO tree also ``train`` or ``val``; None = all images.

    Raises:
        DataError: If the folder has neither layout, or the split does not fit it.
        LabelsError: If labels or classes are faulty; all faults of a file at once.
    """
    root = user_path(root, "a data set")
    _check_folder(root)
    classes, prompts = read_classes(root) or (None, {})
    source = "classes.txt" if (root / "classes.txt").is_file() else "classes.yaml"
    if classes is None and _is_voc(root):
        classes, source = VOC_CLASSES, "VOC's class list"
    csv_path = root / "labels.csv"
    if not csv_path.exists() and coco.is_coco(root):
        return _open_coco(root, split, classes, prompts)
    if csv_path.exists():
        classes, rows = read_labels_csv(csv_path, classes=classes, source=source)
        base = _image_folder([row.image for row in rows])
        names = [_name(PurePosixPath(row.image), base) for row in rows]
        images = {name: root / row.image for name, row in zip(names, rows, strict=True)}
        labels = {name: row.labels for name, row in zip(names, rows, strict=True)}
        chosen = _choose(root, split, images, "labels.csv")
    else:
        assert classes is not None
        images = _images_by_name(root / "JPEGImages")
        chosen = _choose(root, split, images, "JPEGImages")
        found = read_annotations(root / "Annotations", chosen, classes, source=source)
        labels = dict(zip(chosen, found, strict=True))
    folders = (root / name for name in _TRUTHS)
    truths = {_name(path, folder): path for folder in folders for path in folder.rglob("*.png")}
    samples = (Sample(name, images[name], labels[name], truths.get(name)) for name in chosen)
    return LabelledImages(root, classes, tuple(samples), prompts)


def labelled_images(data: LabelledImages | str | Path) -> LabelledImages:
    """Data that are open already, or a folder opened by ``open_labelled``."""
    return data if isinstance(data, LabelledImages) else open_labelled(data)


def open_images(root: str | Path, *, split: str | None = None) -> dict[str, Path]:
    """Images by name of the sample, in the order of a list, for prediction: no labels are needed.

    The folder is one that ``open_labelled`` opens, or it has VOC's images and lists alone.

    Raises:
        DataError: If there are no such images, or the split does not fit them.
    """
    root = user_path(root, "a data set")
    if _is_voc(root) and not coco.is_coco(root):
        images = _images_by_name(root / "JPEGImages")
        return {name: images[name] for name in _choose(root, split, images, "JPEGImages")}
    return {sample.name: sample.image for sample in open_labelled(root, split=split).samples}


def _open_coco(
    root: Path, split: str | None, listed: tuple[str, ...] | None, prompts: dict[str, str]
) -> LabelledImages:
    """Samples named like their images, which need not lie in COCO's own folders."""
    known = [part for part in coco.SPLITS if coco.instances_file(root, part).is_file()]
    parts = [split] if split in coco.SPLITS else known
    images: dict[str, Path] = {}
    labels: dict[str, tuple[int, ...]] = {}
    classes: tuple[str, ...] = ()
    for part in parts:
        table = coco.read_label_table(coco.instances_file(root, part))
        if classes and table.classes != classes:
            raise LabelsError(
                f"{root}/annotations: the files of {' and '.join(parts)} list other categories."
                " Unpack annotations_trainval2014.zip again."
            )
        classes = table.classes
        found = coco.find_images(root, part, table.labels)
        missing = [name for name in table.labels if name not in found]
        if missing:
            raise DataError(
                f"{root} lacks {len(missing)} of {len(table.labels)} images of {part} (such as"
                f" {missing[0]}). `ssrseg prepare coco --data {root}` says what is missing and"
                " where it comes from."
            )
        for name, path in found.items():
            images[Path(name).stem] = path
            labels[Path(name).stem] = table.labels[name]
    if listed is not None and listed != classes:
        raise LabelsError(
            f"{root} has a class list of its own ({len(listed)} names), which is not that of its"
            f" annotations ({len(classes)} names, by category id). Remove it; a classes.yaml with"
            " exactly those names in that order may give prompts."
        )
    own_list = None if split in coco.SPLITS else split
    chosen = _choose(root, own_list, images, "the annotations")
    masks = {key: path for name in _TRUTHS for key, path in coco.find_masks(root / name).items()}
    truths = {name: masks.get(coco.image_key(name)) for name in chosen}
    samples = (Sample(name, images[name], labels[name], truths[name]) for name in chosen)
    return LabelledImages(root, classes, tuple(samples), prompts)


def _is_voc(root: Path) -> bool:
    return (root / "JPEGImages").is_dir() and (root / "ImageSets").is_dir()


def _is_labelled(root: Path) -> bool:
    voc = _is_voc(root) and (root / "Annotations").is_dir()
    return voc or (root / "labels.csv").exists() or coco.is_coco(root)


def _check_folder(root: Path) -> None:
    """Tell apart: no such folder, a file, a folder of something else, VOC without labels."""
    if not root.exists():
        siblings = os.listdir(root.parent) if root.parent.is_dir() else []
        raise DataError(
            f"data folder {root} does not exist.{did_you_mean(root.name, siblings)} Give a folder"
            " with labels.csv, or one in the VOC 2012 layout."
        )
    if not root.is_dir():
        raise DataError(f"{root} is a file, but a data folder is expected. Give {root.parent}.")
    if _is_labelled(root):
        return
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
    names = sorted(os.listdir(root))
    there = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
    raise DataError(
        f"{root} is no data folder: neither labels.csv nor the VOC 2012 layout (JPEGImages,"
        " ImageSets, Annotations) nor COCO's (annotations/instances_train2014.json) is in it."
        f" It holds {there or 'nothing'}. "
        + (
            f"Did you mean {near[0]}?"
            if near
            else 'Write labels.csv there: the header "image,labels", then a line such as'
            ' "images/a.jpg,cat;dog" for each image.'
        )
    )


def _image_folder(images: Sequence[str]) -> PurePosixPath:
    """The folder that names are relative to: JPEGImages or images, or the one common to all."""
    common = posixpath.commonpath([str(PurePosixPath(image).parent) for image in images])
    top = common.split("/")[0]
    return PurePosixPath(top if top in IMAGE_FOLDERS else common)


def _name(file: PurePath, folder: PurePath) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _images_by_name(folder: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for image in list_images(folder).images:
        name = _name(image, folder)
        if name in images:
            raise DataError(
                f"{folder} holds both {images[name].name} and {image.name}, which have the same"
                " name up to the suffix. Remove one."
            )
        images[name] = image
    return images


def _choose(root: Path, split: str | None, images: Iterable[str], where: str) -> list[str]:
    """Names of the images in the split, in its order."""
    known = dict.fromkeys(images)
    if split is None:
        return list(known)
    paths = [root / _SPLITS / f"{split}.txt", root / f"{split}.txt"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        lists = (*(root / _SPLITS).glob("*.txt"), *root.glob("*.txt"))
        there = sorted({file.stem for file in lists} - {"classes"})
        raise DataError(
            f'split "{split}" is unknown: neither {paths[0]} nor {paths[1]} exists.'
            f"{did_you_mean(split, there)}"
            + (f" The splits are: {', '.join(there)}." if there else "")
            + " Without a split, all labelled images are used."
        )
    faults: list[str] = []
    first: dict[str, int] = {}
    for line, name in read_lines(path):
        if name not in known:
            faults.append(
                f'line {line}: there is no image "{name}" in {where}.{nearest(name, known, faults)}'
            )
        elif first.setdefault(name, line) != line:
            faults.append(f'line {line}: "{name}" is already on line {first[name]}. Remove one.')
    if faults:
        raise DataError(fault_report(path, faults))
    if not first:
        raise DataError(f"{path} names no image. Write one image name per line, without suffix.")
    return list(first)
