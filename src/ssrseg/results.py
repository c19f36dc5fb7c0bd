"""What ``ssrseg.SSR`` says of one photograph: numpy arrays at the photograph's own size."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ssrseg.console import printable
from ssrseg.errors import LabelsError, did_you_mean
from ssrseg.overlay import Ids, Map, Region, Rgb, heat_overlay, ids_overlay, target_overlay

_SHOWN = 5  # classes that a result names


@dataclass(frozen=True, eq=False, repr=False)
class SegmentedImage:
    """The mask of one photograph.

    Attributes:
        image: The photograph, RGB.
        classes: All class names; class ``classes[i]`` has id i + 1 in the mask.
        mask: Class ids: 0 = background, 1 + class index, 255 = undecided.
        confidence: Share of the chosen class among all scores of the pixel, in [0, 1].
    """

    image: Rgb
    classes: tuple[str, ...]
    mask: Ids
    confidence: Map

    @property
    def areas(self) -> dict[str, float]:
        """Share of the photograph, in [0, 1], of each class that has a pixel."""
        pixels = np.bincount(self.mask.ravel(), minlength=256) / self.mask.size
        named = {name: float(pixels[index + 1]) for index, name in enumerate(self.classes)}
        return {name: share for name, share in named.items() if share}

    def overlay(self) -> Rgb:
        """The mask in colour over the photograph."""
        return ids_overlay(self.image, self.mask)

    def _repr_html_(self) -> str:
        """Photograph and mask side by side, for notebooks."""
        return _side_by_side({"photograph": self.image, self._shares(): self.overlay()})

    def __repr__(self) -> str:
        """Size and shares of the classes; the arrays would fill the screen."""
        height, width = self.mask.shape
        return f"{type(self).__name__}({width} x {height}, {self._shares()})"

    def _shares(self) -> str:
        """``boat 35 %, bird 7 %``, the largest first."""
        ordered = sorted(self.areas.items(), key=lambda each: -each[1])
        shown = [
            f"{name} {100 * share:.0f} %" if share >= 0.005 else f"{name} under 1 %"
            for name, share in ordered[:_SHOWN]
        ]
        more = [f"{len(ordered) - _SHOWN} more"] if ordered[_SHOWN:] else []
        return printable(", ".join(shown + more)) or "background only"


@dataclass(frozen=True, eq=False, repr=False)
class RectifiedImage(SegmentedImage):
    """What SSR finds in one photograph whose classes are known.

    Attributes:
        labels: The classes in it.
        cam: By class name, the initial CAM, in [0, 1].
        target: By class name, where activation may spread from (SGC's target regions), bool.
        refined_cam: By class name, the CAM after SGC, in [0, 1].
    """

    labels: tuple[str, ...]
    cam: Mapping[str, Map]
    target: Mapping[str, Region]
    refined_cam: Mapping[str, Map]

    def heat(self, label: str, *, refined: bool = True) -> Rgb:
        """The CAM of a class in colour over the photograph.

        Raises:
            LabelsError: If the photograph was not labelled with that class.
        """
        if not isinstance(label, str) or label not in self.labels:
            raise LabelsError(
                f'There is no CAM of "{label}": the photograph was labelled with'
                f" {', '.join(self.labels)}.{did_you_mean(str(label), self.labels)}"
            )
        return heat_overlay(self.image, (self.refined_cam if refined else self.cam)[label])

    def _repr_html_(self) -> str:
        """Photograph; CAM, target regions and refined CAM of each class; mask."""
        pictures = {"photograph": self.image}
        for label in self.labels:
            pictures[f"CAM, {label}"] = self.heat(label, refined=False)
            pictures[f"target regions, {label}"] = target_overlay(self.image, self.target[label])
            pictures[f"refined CAM, {label}"] = self.heat(label)
        return _side_by_side(pictures | {"mask": self.overlay()})


def _side_by_side(pictures: Mapping[str, Rgb]) -> str:
    """HTML of captioned pictures, each at most 240 pixels wide."""
    cells = []
    for caption, picture in pictures.items():
        small = Image.fromarray(picture)
        small.thumbnail((480, 480))
        file = io.BytesIO()
        small.save(file, "PNG")
        source = base64.b64encode(file.getvalue()).decode()
        cells.append(
            '<figure style="display:inline-block;margin:4px">'
            f'<img style="max-width:240px" src="data:image/png;base64,{source}">'
            f"<figcaption>{html.escape(printable(caption))}</figcaption></figure>"
        )
    return f"<div>{''.join(cells)}</div>"
