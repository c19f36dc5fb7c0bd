"""Draw docs/figures/steps.jpg: what SSR makes of unseen scenes of the demo, step by step.

    ssrseg demo && python docs/figures/steps.py demo-run/seed-0

The first four columns know the labels, the last one does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn import functional

import ssrseg
from ssrseg.method.sgc import slic_labels
from ssrseg.overlay import target_overlay

SCENES = ((15, "car"), (4, "bus"))
"""Unseen scenes and the class whose maps are shown. Two that went well; the demo's page shows eight
as they come."""


def main(seed: Path, out: Path) -> None:
    """Two rows of six pictures."""
    model = ssrseg.SSR.from_pretrained(seed / "ssr")
    unseen = ssrseg.open_labelled(seed / "scenes", split="val")
    figure, axes = plt.subplots(len(SCENES), 6, figsize=(15, 2.75 * len(SCENES)))
    for row, (number, label) in zip(axes, SCENES, strict=True):
        sample = unseen.samples[number]
        labels = [unseen.classes[index] for index in sample.labels]
        found = model.rectify(sample.image, labels=labels)
        pictures = {
            f"labels: {', '.join(labels)}": found.image,
            f"CAM, {label}": found.heat(label, refined=False),
            f"target regions, {label}": target_overlay(found.image, target(model, found, label)),
            f"refined CAM, {label}": found.heat(label),
            "pseudo mask": found.overlay(),
            "trained model, no labels": model.segment(sample.image).overlay(),
        }
        for axis, (title, picture) in zip(row, pictures.items(), strict=True):
            axis.imshow(picture)
            axis.set_title(title, fontsize=12)
            axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 88})


def target(model: ssrseg.SSR, found: ssrseg.RectifiedImage, label: str) -> object:
    """Target patches of a class, at the size of the photograph."""
    image = torch.from_numpy(found.image).permute(2, 0, 1)[None].float() / 255
    present = torch.tensor([[model.classes.index(name) for name in found.labels]])
    sgc = model.config.sgc
    superpixels = slic_labels(torch.from_numpy(found.image), sgc.n_segments, sgc.compactness)[None]
    seen = model(image, present, superpixels)
    assert seen.target is not None
    slot = found.labels.index(label)
    patches = seen.target[:, slot : slot + 1].float().view(1, 1, *seen.refined_cam.shape[2:])
    return functional.interpolate(patches, found.mask.shape, mode="nearest")[0, 0].bool().numpy()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("steps.jpg"))
