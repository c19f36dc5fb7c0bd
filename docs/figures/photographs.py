"""Draw docs/figures/photographs.jpg: photographs of the package and their masks by preset photos.

    ssrseg masks --preset photos --data ssrseg:photos/sample --out sample
    python docs/figures/photographs.py sample

The first six, as they come; on the demo's page are all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import ssrseg
from ssrseg.data.class_ids import read_class_ids
from ssrseg.data.images import read_image
from ssrseg.overlay import ids_overlay

SHOWN = 6


def main(masks: Path, out: Path) -> None:
    """Photographs above, masks below."""
    sample = ssrseg.open_labelled("ssrseg:photos/sample")
    shown = sample.samples[:SHOWN]
    photos = [read_image(each.image).numpy() for each in shown]
    ratios = [photo.shape[1] / photo.shape[0] for photo in photos]
    figure, axes = plt.subplots(
        2, SHOWN, figsize=(15, 4.6), gridspec_kw={"width_ratios": ratios}, layout="constrained"
    )
    for each, photo, (above, below) in zip(shown, photos, axes.T, strict=True):
        above.imshow(photo)
        above.set_title(", ".join(sample.classes[index] for index in each.labels), fontsize=12)
        ids = read_class_ids(masks / "masks" / f"{each.name}.png").numpy()
        below.imshow(ids_overlay(photo, ids))
        above.axis("off")
        below.axis("off")
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("photographs.jpg"))
