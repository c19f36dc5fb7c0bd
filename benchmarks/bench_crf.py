"""The dense CRF against pydensecrf (``pip install pydensecrf2``, needs a C++ compiler)."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from skimage.data import astronaut
from skimage.transform import resize
from timing import Ratio, finish, medians
from torch import Tensor
from torch.nn import functional

from ssrseg.method.crf import dense_crf

HEIGHT, WIDTH = 375, 500


def peer_crf(image: Tensor, probabilities: Tensor) -> Tensor:
    from pydensecrf.densecrf import DenseCRF2D

    peer = DenseCRF2D(WIDTH, HEIGHT, len(probabilities))
    peer.setUnaryEnergy(-probabilities.clamp(1e-5, 1).log().flatten(1).numpy())
    peer.addPairwiseGaussian(sxy=3, compat=3)
    peer.addPairwiseBilateral(sxy=64, srgb=5, rgbim=image.numpy(), compat=4)
    return torch.from_numpy(np.array(peer.inference(10))).view_as(probabilities)


def main() -> None:
    if importlib.util.find_spec("pydensecrf") is None:
        print("left out: pydensecrf is not installed")
        return
    photo = resize(astronaut(), (HEIGHT, WIDTH), anti_aliasing=True)
    image = torch.from_numpy((photo * 255).round().astype(np.uint8))
    candidates = {}
    for labels in (3, 21):
        coarse = torch.randn(1, labels, 15, 20, generator=torch.Generator().manual_seed(0))
        logits = 3 * functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")
        probabilities = logits[0].softmax(0)

        ours, peer = dense_crf(image, probabilities), peer_crf(image, probabilities)
        agreement = (ours.argmax(0) == peer.argmax(0)).float().mean()
        largest = (ours - peer).abs().max()
        print(f"{labels} labels: largest difference {largest:.1e}, equal labels {agreement:.4%}")
        candidates[f"CRF, {labels} labels"] = lambda p=probabilities: dense_crf(image, p)
        candidates[f"pydensecrf, {labels} labels"] = lambda p=probabilities: peer_crf(image, p)
    seconds = medians(candidates)
    finish(
        "crf",
        [
            Ratio(
                name, seconds[name], "pydensecrf", seconds[name.replace("CRF", "pydensecrf")], 1.2
            )
            for name in ("CRF, 3 labels", "CRF, 21 labels")
        ],
    )


if __name__ == "__main__":
    main()
