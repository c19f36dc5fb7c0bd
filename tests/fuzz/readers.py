"""Every reader of the package: what it is given, and how it is called."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.mutate import bytes_like, json_like, png_like, safetensors_like, table_like
from make_tiny import tiny_coco, tiny_voc, write_sbd_mask
from PIL import Image
from safetensors.torch import save
from tiny_encoders import tiny_clip, tiny_dino

from ssrseg.checkpoint import MODEL_FILE, Checkpoint, load_checkpoint, save_checkpoint
from ssrseg.config import Config, load_config
from ssrseg.data.class_ids import read_class_ids, read_truth
from ssrseg.data.csv_lines import csv_rows
from ssrseg.data.images import read_image
from ssrseg.data.kept_tensors import kept_tensors
from ssrseg.data.open import open_labelled
from ssrseg.data.stamped_mask import mask_state, write_mask
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.errors import SSRError
from ssrseg.kept_cams import KeptCams, read_cams, write_cams
from ssrseg.made_with import MadeWith, change, read_made_with
from ssrseg.manifest import Manifest
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.vocabulary import build_vocabulary
from ssrseg.paper.records import read_marker, read_result, read_settings
from ssrseg.prepare.archives import unpack
from ssrseg.prepare.coco import prepare_coco
from ssrseg.prepare.sbd import read_sbd
from ssrseg.training_log import FIELDS, Log

Make = Callable[[random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """What reads a file.

    Attributes:
        make: Another hostile content for each state of the random numbers.
        place: Where the file lies.
        read: Reads it.
    """

    make: Make
    place: Path
    read: Callable[[], object]


def readers(folder: Path) -> dict[str, Callable[[], Reader]]:
    """Ways to set up each reader in an empty folder of its own."""
    ways: dict[str, Callable[[Path], Reader]] = {
        "labels.csv": _labels_csv,
        "labels.json": partial(_label_json, table=_MAP),
        "list of labels": partial(_label_json, table=_LIST),
        "labels.jsonl": _label_lines,
        "Label Studio": partial(_label_json, table=_TASKS),
        "CVAT XML": _cvat,
        "COCO elsewhere": partial(_label_json, table=_COCO),
        "YOLO data.yaml": _yolo,
        "YOLO labels": _yolo_labels,
        "classes.txt": partial(_classes, suffix="txt"),
        "classes.yaml": partial(_classes, suffix="yaml"),
        "split list": _split_list,
        "prompts": _prompts,
        "settings": _settings,
        "--set": _override,
        "COCO labels": _coco_labels,
        "COCO masks": _coco_masks,
        "VOC XML": _voc_xml,
        "SBD mask": _sbd,
        **{f"image {kind}": partial(_image, kind=kind) for kind in _FORMATS},
        "true mask": partial(_mask, read=read_class_ids),
        "mask": partial(_mask, read=lambda path: read_truth(path, (12, 16), 2)),
        "stamped mask": partial(_mask, read=lambda path: mask_state(path, "it")),
        "checkpoint": _checkpoint,
        "kept tensors": _kept,
        "kept CAMs": _kept_cams,
        "made with": _made_with,
        "log.csv": _log,
        "manifest.csv": _manifest,
        "CSV": _csv,
        "superpixels": _superpixels,
        **{f"archive {kind}": partial(_archive, kind=kind) for kind in ("zip", "tar", "tgz")},
        "result": _result,
        "marker": _marker,
        "run settings": _run_settings,
        "encoder config": partial(_dino, name="config.json"),
        "encoder weights": partial(_dino, name="model.safetensors"),
        "encoder pixels": partial(_dino, name="preprocessor_config.json"),
        "tokenizer": _tokenizer,
    }

    def made(name: str) -> Reader:
        place = folder / name.replace(" ", "-").strip("-")
        place.mkdir(parents=True)
        return ways[name](place)

    return {name: partial(made, name) for name in ways}


def _text(*seeds: str) -> Make:
    return partial(bytes_like, seeds=[seed.encode() for seed in seeds])


def _photo(seed: int = 0, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


# ---------------------------------------------------------------- labels


def _own_folder(root: Path) -> None:
    (root / "images").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(_photo()).save(root / "images" / f"{name}.png")
    (root / "labels.csv").write_text("image,labels\nimages/a.png,cat;dog\nimages/b.png,none\n")


_CSV = (
    "image,labels\nimages/a.png,cat;dog\nimages/b.png,none\n",
    'image;labels\r\n"images/a.png";"cat;dog"\r\nimages\\b.png;cat\r\n',
    "image,cat,dog\nimages/a.png,1,0\nimages/b.png,0,1\n",
    "image\tlabels\na.png\tcat\n\nb.png\tdog\n",
    "sep=;\nname;cat;dog;split\na.png;x;;train\nb.png;;x;val\n",
    'path|tags|w\na|"[""cat"", ""dog""]"|3\nb|{"choices": ["cat"]}|4\n',
    "image,xmin,class\n/data/upload/1/0a1b2c3d-a.png,1,cat\nhttp://x/a.png,2,dog\n",
    "\ufeffimage,labels\na.png,cat|dog\nb.png,none\n",
)


def _labels_csv(root: Path) -> Reader:
    _own_folder(root)
    return Reader(_text(*_CSV), root / "labels.csv", lambda: open_labelled(root))


_MAP = {"a.png": ["cat", "dog"], "b.png": "none", "c.png": {"labels": "cat;dog"}}
_LIST = [
    {"file_name": "a.png", "labels": ["cat"], "split": "train"},
    {"file_name": "b.png", "labels": "cat, dog", "width": 3},
    {"file_name": "c.png", "labels": {"cat": 1, "dog": 0}},
]
_TASKS = [
    {
        "id": number,
        "annotations": [
            {
                "was_cancelled": False,
                "ground_truth": True,
                "result": [
                    {"from_name": "x", "type": "choices", "value": {"choices": ["cat", "dog"]}}
                ],
            }
        ],
        "data": {"image": address},
    }
    for number, address in enumerate(
        ("/data/upload/1/0a1b2c3d-a.png", "http://[x]/b.png?d=y", "/data/local-files/?d=x/c.png")
    )
]
_COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "images/b.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
    "categories": [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
    ],
}


def _label_json(root: Path, table: Any) -> Reader:
    _only_images(root)
    path = root / "own.json"
    # by its path too, whatever it looks like
    return Reader(partial(json_like, table=table), path, lambda: _both(root, path))


def _both(root: Path, path: Path) -> None:
    with suppress(SSRError):
        open_labelled(root)
    open_labelled(path)


def _label_lines(root: Path) -> Reader:
    _only_images(root)
    path = root / "metadata.jsonl"
    make = _text("\n".join(map(json.dumps, _LIST)), '{"image": "a.png", "tags": "cat|dog"}\r\n\n')
    return Reader(make, path, lambda: _both(root, path))


def _cvat(root: Path) -> Reader:
    _only_images(root)
    path = root / "annotations.xml"
    make = _text(
        "<?xml version='1.0'?><annotations><meta><task><labels><label><name>cat</name></label>"
        "<label><name>dog</name></label></labels></task></meta><image id='0' name='a.png'>"
        "<tag label='cat'/></image><image id='1' name='b.png' subset='val'><box label='dog'"
        " xtl='1'/></image></annotations>",
    )
    return Reader(make, path, lambda: _both(root, path))


def _yolo(root: Path) -> Reader:
    _yolo_tree(root)
    path = root / "data.yaml"
    make = _text(
        "path: ../x\ntrain: images\nval: [images]\nnc: 2\nnames:\n  0: cat\n  1: dog\n",
        "names: ['cat', 'dog']\ntrain: ../images\ntest: list.txt\n",
    )
    return Reader(make, path, lambda: _both(root, path))


def _yolo_labels(root: Path) -> Reader:
    _yolo_tree(root)
    make = _text("0 .5 .5 .1 .1\n1 0 0 1 0 1 1\n", "1\n", "")
    return Reader(make, root / "labels" / "a.txt", lambda: open_labelled(root))


def _yolo_tree(root: Path) -> None:
    _only_images(root)
    (root / "labels").mkdir()
    for name in ("a", "b"):
        (root / "labels" / f"{name}.txt").write_text("0 .5 .5 .1 .1\n")
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    (root / "list.txt").write_text("images/a.png\n")


def _only_images(root: Path) -> None:
    _own_folder(root)
    (root / "labels.csv").unlink()


def _classes(root: Path, suffix: str) -> Reader:
    _own_folder(root)
    seeds = {
        "txt": ("cat\ndog\n", "# names\ncat # small\r\n\r\ndog"),
        "yaml": (
            "cat: kitten\ndog: [puppy, hound]\nbackground: [sky, sea]\n",
            "{cat: , dog: a}",
            "- cat\n- dog\n",
        ),
    }
    return Reader(_text(*seeds[suffix]), root / f"classes.{suffix}", lambda: open_labelled(root))


def _split_list(root: Path) -> Reader:
    _own_folder(root)
    return Reader(_text("a\nb\n", "b"), root / "own.txt", lambda: open_labelled(root, split="own"))


def _coco_labels(root: Path) -> Reader:
    tree = tiny_coco(root / "coco")
    path = tree / "annotations" / "instances_val2014.json"
    table = json.loads(path.read_bytes())
    return Reader(partial(json_like, table=table), path, lambda: open_labelled(tree, split="val"))


def _coco_masks(root: Path) -> Reader:
    tree = tiny_coco(root / "coco")
    path = tree / "annotations" / "instances_val2014.json"
    table = json.loads(path.read_bytes())

    def make(rng: random.Random) -> bytes:
        """One image or segmentation, so that the rest does not stop it before."""
        changed = json.loads(json.dumps(table))
        part = rng.choice((changed["images"], changed["annotations"], changed["annotations"]))
        index = rng.randrange(len(part))
        part[index] = table_like(rng, part[index])
        return json.dumps(changed).encode()

    def read() -> None:
        for masks in tree.glob("SegmentationClass*"):
            shutil.rmtree(masks)
        prepare_coco(tree, workers=1)

    return Reader(make, path, read)


def _voc_xml(root: Path) -> Reader:
    tree = tiny_voc(root / "voc", n=2)
    path = sorted((tree / "Annotations").glob("*.xml"))[0]
    seed = path.read_text()
    name = seed.replace("<annotation>", '<annotation xmlns="http://a.b">')
    return Reader(_text(seed, name), path, lambda: open_labelled(tree))


def _sbd(root: Path) -> Reader:
    path = root / "a.mat"
    ids = np.zeros((6, 8), np.uint8)
    ids[:2] = 1
    write_sbd_mask(path, ids)
    return Reader(partial(bytes_like, seeds=[path.read_bytes()]), path, lambda: read_sbd(path))


# ---------------------------------------------------------------- settings


def _prompts(root: Path) -> Reader:
    path = root / "own.yaml"
    make = _text(
        'template: "a photo of a {}."\nclasses: {cat: "cat, kitten"}\nbackground: [sky, "no"]\n',
        "template: '{}'\nclasses:\n  dog: a dog\nbackground:\n- ground\n- 2024-01-01\n",
    )
    return Reader(make, path, lambda: build_vocabulary(("cat", "dog"), path))


_YAML = (
    "optim: {batch: 8, decoder_lr: 1e-3}\nsgc:\n  high: 0.4\ndata: {scale: [0.5, 2.0], flip: no}\n",
    "backbones: {clip: /a/b}\ntest: {scales: [1, 0.75], crf_parameters: [3, 3, 64, 5, 4]}\n",
    "affinity: {clip_layers: [1, 2], dino_layers: -8, rfm_after: ~}\ndecoder: {layers: 3}\n",
)


def _settings(root: Path) -> Reader:
    path = root / "own.yaml"
    return Reader(_text(*_YAML, Config().to_yaml()), path, lambda: load_config(file=path))


def _override(root: Path) -> Reader:
    path = root / "override"
    make = _text("sgc.min_ratio=0.4", "data.scale=[0.5, 2]", "optim.batch=16", "backbones.clip=a")
    return Reader(make, path, lambda: load_config(overrides=[_words(path)]))


def _words(path: Path) -> str:
    """As the shell hands them over."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _run_settings(root: Path) -> Reader:
    path = root / "config.yaml"
    return Reader(_text(Config().to_yaml()), path, lambda: read_settings(path))


# ---------------------------------------------------------------- images and masks

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")


def _image(root: Path, kind: str) -> Reader:
    seeds = []
    grey = _photo()[..., 0]
    images = [Image.fromarray(_photo()), Image.fromarray(grey), Image.fromarray(grey).convert("P")]
    if kind in ("PNG", "TIFF"):
        images += [Image.fromarray(grey.astype(np.uint16) * 200), Image.fromarray(grey > 99)]
    if kind == "TIFF":
        images += [Image.fromarray(grey.astype(np.float32))]
    options: list[dict[str, object]] = [{}]
    if kind == "TIFF":
        options += [{"compression": name} for name in ("tiff_lzw", "tiff_deflate", "packbits")]
    for image in images:
        for option in options:
            file = io.BytesIO()
            image.convert("RGB" if kind == "WEBP" else image.mode).convert(
                "L" if kind == "JPEG" and image.mode == "P" else image.mode
            ).save(file, kind, **option)
            seeds.append(file.getvalue())
    path = root / f"a.{'tif' if kind == 'TIFF' else kind.lower()}"

    def make(rng: random.Random) -> bytes:
        if kind == "PNG":
            return png_like(rng, rng.choice(seeds))
        return bytes_like(rng, seeds)

    return Reader(make, path, lambda: read_image(path))


def _mask(root: Path, read: Callable[[Path], object]) -> Reader:
    path = root / "a.png"
    ids = torch.zeros(12, 16, dtype=torch.uint8)
    ids[:4], ids[4:6] = 1, 255
    write_mask(path, ids, "it")
    seeds = [path.read_bytes()]
    for image in (Image.fromarray(ids.numpy()), Image.fromarray(_photo())):
        file = io.BytesIO()
        image.save(file, "PNG")
        seeds.append(file.getvalue())
    return Reader(lambda rng: png_like(rng, rng.choice(seeds)), path, lambda: read(path))


def _superpixels(root: Path) -> Reader:
    cache = SuperpixelCache(root, n_segments=4, compactness=10.0)
    image = torch.from_numpy(_photo())
    right = cache(image)
    (path,) = root.rglob("*.npy")
    seeds = [path.read_bytes()]
    for other in (np.array([{}, 1], object), right.numpy(), right.numpy().astype(np.uint16)[:3]):
        file = io.BytesIO()
        np.save(file, other)
        seeds.append(file.getvalue())

    def read() -> None:
        found = cache(image)
        assert found.shape == right.shape and found.dtype == right.dtype

    return Reader(partial(bytes_like, seeds=seeds), path, read)


# ---------------------------------------------------------------- what a run writes


def _checkpoint(root: Path) -> Reader:
    path = root / MODEL_FILE
    tensors = {"decoder.a": torch.ones(2, 3), "alignment.b": torch.zeros(4)}
    save_checkpoint(path, Checkpoint(tensors, Config(), ("cat", "dog"), ("a cat", "a dog")))
    seed = path.read_bytes()
    return Reader(partial(safetensors_like, seed=seed), path, lambda: load_checkpoint(path))


def _kept_cams(root: Path) -> Reader:
    path, maps = root / "a.npz", torch.rand(2, 3, 4)
    evidence = {"cat": 0.5, "dog": 0.25}
    write_cams(path, KeptCams(("cat", "dog"), maps, maps, evidence), "it")
    seeds = [path.read_bytes()]
    with np.load(path) as found:
        arrays = dict(found)
    for other in (np.array([{}, 1], object), maps.numpy()[:1], np.float32("nan")):
        file = io.BytesIO()
        np.savez(file, **{**arrays, "refined_cam": other})
        seeds.append(file.getvalue())
    return Reader(partial(bytes_like, seeds=seeds), path, lambda: read_cams(path, "it"))


def _made_with(root: Path) -> Reader:
    path = root / "config.yaml"
    own = MadeWith(("cat",), {"pseudo.alpha": 1.0}, ("a cat",), ("a tree",), {"clip": "ab"}, "cd")

    def read() -> None:
        found = read_made_with(path.read_text("utf-8", "surrogateescape"))
        if found is not None:
            change(found, own), change(own, found)

    return Reader(_text(f"pseudo:\n  alpha: 1.0\n{own.line()}"), path, read)


def _kept(root: Path) -> Reader:
    path = root / "a.safetensors"
    seed = save({"a": torch.ones(3), "done": torch.tensor(3)})
    return Reader(partial(safetensors_like, seed=seed), path, lambda: kept_tensors(path))


def _log(root: Path) -> Reader:
    path = root / "log.csv"
    rows = "".join(f"{n},{','.join(['0.5'] * (len(FIELDS) - 1))}\n" for n in range(1, 4))
    make = _text(",".join(FIELDS) + "\n" + rows)

    def failed(*_: object) -> Exception:
        raise AssertionError("nothing diverges here")

    return Reader(make, path, lambda: Log(path, 2, failed))


def _manifest(root: Path) -> Reader:
    path = root / "manifest.csv"
    make = _text(
        "name,labels,absent,photo,made_by,mask\na,cat;dog,dog,0a,0b,masks/a.png\n",
        'name,labels,absent,mask\n\'=b,cat,,masks/=b.png\n"c,""d",cat,,masks/c.png\n',
    )
    return Reader(make, path, lambda: Manifest(path, ("cat", "dog")))


def _csv(root: Path) -> Reader:
    path = root / "a.csv"
    return Reader(_text('a,b\n\'=1,"2\n3"\n'), path, lambda: csv_rows(_words(path)))


def _archive(root: Path, kind: str) -> Reader:
    path, out = root / f"a.{kind}", root / "out"
    seeds = []
    for level in (0, 9):
        file = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(file, "w", 8 if level else 0) as packed:
                packed.writestr("top/a.txt", b"a" * 50)
                packed.writestr("top/b/c.txt", b"c")
        else:
            form = tarfile.PAX_FORMAT if level else tarfile.GNU_FORMAT
            mode: Any = "w:gz" if kind == "tgz" else "w"
            with tarfile.open(fileobj=file, mode=mode, format=form) as tar:
                for name in ("top/a.txt", "top/" + "b" * 120, "top/c.txt"):
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.pax_headers = 5, {"path": name}
                    tar.addfile(entry, io.BytesIO(b"aaaaa"))
        seeds.append(file.getvalue())

    def read() -> None:
        try:
            unpack(path, out, top="top")
        finally:
            shutil.rmtree(out, ignore_errors=True)
        assert {each.name for each in root.iterdir()} == {path.name}

    return Reader(partial(bytes_like, seeds=seeds), path, read)


_OF_CLASS = {"images": 3, "iou": 0.5, "confusion_ratio": 1.5}
_RESULT = {
    "key": "k", "measure": "seeds", "images": 3, "seconds": 1.5, "command": "c", "version": "0",
    "figures": {"miou": 0.5, "precision": 0.5, "recall": 1.0, "confusion_ratio": None},
    "classes": {"background": _OF_CLASS, "cat": _OF_CLASS}, "commit": None, "date": "2026-01-01",
    "data": {"digest": "0b", "folder": "/data"}, "training": {"images": 3, "run": "runs/a"},
    "encoders": {name: {"name": name, "digest": "0a"} for name in ("clip", "dino")},
}  # fmt: skip


def _result(root: Path) -> Reader:
    path = root / "a-k.json"
    return Reader(partial(json_like, table=_RESULT), path, lambda: read_result(path, "k", ("cat",)))


def _marker(root: Path) -> Reader:
    path = root / "experiment.json"
    table = {"key": "k", "seconds": 1.5, "heads": "h"}
    return Reader(partial(json_like, table=table), path, lambda: read_marker(path))


# ---------------------------------------------------------------- encoders


def _dino(root: Path, name: str) -> Reader:
    folder = tiny_dino(root)
    path = folder / name
    seed = path.read_bytes()
    if name.endswith(".json"):
        make: Make = partial(json_like, table=json.loads(seed))
    else:
        make = partial(safetensors_like, seed=seed)
    return Reader(make, path, lambda: FrozenDINO.load(folder))


def _tokenizer(root: Path) -> Reader:
    folder = tiny_clip(root)
    path = folder / "tokenizer.json"
    make = partial(json_like, table=json.loads(path.read_bytes()))
    return Reader(make, path, lambda: FrozenCLIP.load(folder, texts=("a cat", "a dog")))


def digest(content: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(content).hexdigest()[:12]
