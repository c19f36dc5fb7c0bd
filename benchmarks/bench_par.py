"""PAR against the plain formulation: one-hot dilated convolutions, rebuilt every iteration."""

from __future__ import annotations

import torch
from skimage.data import astronaut
from timing import Ratio, finish, medians
from torch import Tensor
from torch.nn import functional

from ssrseg.method.par import _refined, pixel_adaptive_refinement

DILATIONS = (1, 2, 4, 8, 12, 24)


def neighbours(maps: Tensor) -> Tensor:
    """(batch, channels, 48, height, width), one convolution per dilation."""
    batch, channels, height, width = maps.shape
    one_hot = torch.eye(9)[[0, 1, 2, 3, 5, 6, 7, 8]].view(8, 1, 3, 3)
    found = []
    for d in DILATIONS:
        padded = functional.pad(maps, [d] * 4, mode="replicate").flatten(0, 1)[:, None]
        moved = functional.conv2d(padded, one_hot, dilation=d)
        found.append(moved.view(batch, channels, 8, height, width))
    return torch.cat(found, 2)


def plain_refinement(image: Tensor, scores: Tensor) -> Tensor:
    around = neighbours(image)
    ratio = (around - image[:, :, None]).abs() / (around.std(2, keepdim=True) + 1e-8) / 0.3
    distance = torch.tensor([2**0.5, 1, 2**0.5, 1, 1, 2**0.5, 1, 2**0.5])
    distance = torch.cat([d * distance for d in DILATIONS])
    position = (-((distance / distance.std() / 0.3) ** 2)).softmax(0)
    affinity = (-(ratio**2).mean(1)).softmax(1) + 0.01 * position[:, None, None]
    for _ in range(20):
        scores = (neighbours(scores) * affinity[:, None]).sum(2)
    return scores


def main() -> None:
    image = torch.from_numpy(astronaut()[:320, :320] / 255).float().permute(2, 0, 1)[None]
    coarse = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    scores = functional.interpolate(coarse, (320, 320), mode="bilinear")

    ours, plain = pixel_adaptive_refinement(image, scores), plain_refinement(image, scores)
    other_labels = (ours.argmax(1) != plain.argmax(1)).sum()
    print(f"largest difference {(ours - plain).abs().max():.1e}, other labels {other_labels}")
    # crops as they come: up to four classes, most have one or two
    photos, several = image[..., :256, :256].repeat(8, 1, 1, 1), torch.rand(8, 5, 256, 256)
    for each, classes in zip(several, (1, 1, 2, 1, 4, 1, 2, 1), strict=True):
        each[1 + classes :] = 0
    seconds = medians(
        {
            "plain": lambda: plain_refinement(image, scores),
            "PAR": lambda: pixel_adaptive_refinement(image, scores),
            "batch": lambda: pixel_adaptive_refinement(photos, several),
            "at once": lambda: _refined(photos, several, 20, DILATIONS),
        }
    )
    finish(
        "par",
        [
            Ratio(
                "PAR, 320 x 320, 3 channels", seconds["PAR"], "convolutions", seconds["plain"], 0.12
            ),
            Ratio(
                "PAR, batch of 8 crops", seconds["batch"], "all at once", seconds["at once"], 1.0
            ),
        ],
    )


if __name__ == "__main__":
    main()
