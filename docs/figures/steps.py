"""Draw docs/figures/steps.jpg: what SSR makes of unseen scenes of the demo, step by step.

    ssrseg demo && python docs/figures/steps.py demo-run/seed-0

The first four columns know the labels, the last one does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import ssrseg
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
            f"target regions, {label}": target_overlay(found.image, found.target[label]),
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("steps.jpg"))
