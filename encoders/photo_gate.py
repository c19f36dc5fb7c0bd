"""What the photo encoders must reach: tags, background words and ImageNet's names, without a mask.

Run ``python -m encoders.photo_gate --clip DIR --voc VOC2012-part:val --backgrounds msrc-part:odd``.
Neither folder may have been trained on. CAMs and affinities are measured by ``ssrseg table``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional

from encoders.gate import average_precision
from encoders.photos import Photo, open_photos
from encoders.words import BACKGROUNDS, NAMES, TAGS, TEMPLATES
from ssrseg.data.images import read_image
from ssrseg.data.transforms import fit_to_patches, limit_side, to_unit
from ssrseg.networks.clip import FrozenCLIP

LONG_SIDE = 384
"""Larger photographs are shrunk to this many pixels on the long side."""

FREQUENT = ("cat", "cow", "dog", "horse", "person", "sheep")
"""Classes of VOC2012-part that at least 20 photographs of ``val`` show."""


@torch.no_grad()
def image_feature(clip: FrozenCLIP, path: Path) -> torch.Tensor:
    """V of a photograph, (1, dim), unit norm."""
    photo = fit_to_patches(limit_side(read_image(path), LONG_SIDE), clip.patch_size)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in clip.pixels.numbers)
    features = clip.encode((to_unit(photo)[None] - mean) / deviation)
    return functional.normalize(clip.last_block(features, clip.last_norm(features)).mean(1), dim=-1)


def tag_precision(clip: FrozenCLIP, photos: Sequence[Photo]) -> dict[str, float]:
    """Average precision of every tag that somebody looked for and that occurs."""
    texts = clip.text_features(tuple(TEMPLATES[0].format(words[0]) for words in TAGS.values()))
    images = torch.cat([image_feature(clip, photo.path) for photo in photos])
    found = {}
    for tag, column in zip(TAGS, (images @ texts.T).T, strict=True):
        known = torch.tensor([tag in photo.known for photo in photos])
        present = torch.tensor([tag in photo.present for photo in photos])
        if (present & known).any():
            found[tag] = average_precision(column[known], present[known])
    return found


def best_names(clip: FrozenCLIP, path: Path, count: int = 5) -> list[str]:
    """The most likely of ImageNet's names for a photograph."""
    texts = clip.text_features(tuple(TEMPLATES[0].format(name) for name in NAMES))
    return [NAMES[k] for k in (image_feature(clip, path) @ texts.T)[0].topk(count).indices]


def main() -> None:
    """Command line: ``python -m encoders.photo_gate --clip DIR``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", default="ssrseg:photos/weights/clip")
    parser.add_argument("--voc", required=True, metavar="DIR:SPLIT")
    parser.add_argument("--backgrounds", required=True, metavar="DIR:HALF")
    parser.add_argument("images", nargs="*", type=Path, help="photographs to name")
    chosen = parser.parse_args()
    voc, around = open_photos([chosen.voc]), open_photos([chosen.backgrounds])
    for folder, photos, wanted in (
        (chosen.voc, voc, FREQUENT),
        (chosen.backgrounds, around, BACKGROUNDS),
    ):
        shown = frozenset[str]().union(*(photo.present for photo in photos))
        if lacking := [tag for tag in wanted if tag not in shown]:
            parser.error(f"no photograph of {folder} is tagged {', '.join(lacking)}")
    clip = FrozenCLIP.load(chosen.clip)
    tags, backgrounds = tag_precision(clip, voc), tag_precision(clip, around)
    backgrounds = {name: backgrounds[name] for name in BACKGROUNDS}
    print(f"tags, frequent classes {fmean(tags[name] for name in FREQUENT):.3f}  wanted .85")
    print(f"tags, all that occur   {fmean(tags.values()):.3f}  wanted .45")
    print(f"background words       {fmean(backgrounds.values()):.3f}  wanted .5")
    for name, value in (tags | backgrounds).items():
        print(f"  {name:12s} {value:.3f}")
    for path in chosen.images:
        print(f"{path.name}: {', '.join(best_names(clip, path))}")


if __name__ == "__main__":
    main()
