"""A training iteration and a prediction against their encoder forwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from random_encoders import vit_b16_clip, vit_s16_dino
from timing import Ratio, finish, medians
from torch.nn import functional

from ssrseg.config import load_config
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.device import bf16_share
from ssrseg.losses import seg_loss
from ssrseg.method.sgc import slic_labels
from ssrseg.model import SSR
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.frozen import Precision
from ssrseg.networks.vocabulary import build_vocabulary
from ssrseg.trained_parts import new_alignment

BATCH, SIDE, CLASSES = 4, 320, 2


def main() -> None:
    clip, dino = vit_b16_clip(), vit_s16_dino()
    vocabulary = build_vocabulary(VOC_CLASSES, "voc")
    decoder = Decoder(clip.depth - 1, clip.width, len(VOC_CLASSES))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, fused=True)
    torch.manual_seed(2)
    smooth = functional.interpolate(torch.rand(BATCH, 3, 12, 12), (SIDE, SIDE), mode="bicubic")
    images = smooth.clamp(0, 1)
    superpixels = torch.stack(
        [slic_labels((image.permute(1, 2, 0) * 255).to(torch.uint8)) for image in images]
    )
    n_superpixels = int(superpixels.max()) + 1
    present = torch.tensor([[0, 1]]).expand(BATCH, CLASSES)

    def iteration(precision: Precision) -> Callable[[], None]:
        towers = (
            (clip, dino) if precision == "fp32" else (vit_b16_clip("bf16"), vit_s16_dino("bf16"))
        )
        config = load_config("ssr")
        plain = SSR(config, *towers, vocabulary, decoder=decoder)
        model = plain.with_config(config, alignment=new_alignment(config.cmpa, plain.text_features))

        def run() -> None:
            features = model.encode(images)
            with torch.no_grad():
                found = model(
                    images,
                    present,
                    superpixels,
                    n_superpixels=n_superpixels,
                    initial=model.initial_cam(features, present),
                )
            optimizer.zero_grad()
            seg_loss(model, features, found.pseudo_mask).backward()
            optimizer.step()

        return run

    photo = (smooth[0].clamp(0, 1).permute(1, 2, 0) * 255).to(torch.uint8)
    photo = photo.repeat(1, 2, 1)[:240, :320]
    whole = SSR(load_config("ssr"), clip, dino, vocabulary, decoder=decoder)

    def forwards() -> None:
        for side in ((384, 512), (288, 384)):
            clip.encode(torch.rand(2, 3, *side))

    def parts(towers: tuple[FrozenCLIP, FrozenDINO]) -> None:
        """What of an iteration has weights: both encoders, the last block, the decoder."""
        features = towers[0].encode(images)
        towers[0].trace_last_block(features)
        towers[1].attention(images, load_config("ssr").affinity.dino_layers)
        optimizer.zero_grad()
        seg_loss(whole, features, ids).backward()
        optimizer.step()

    ids = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.uint8)
    candidates: dict[str, Callable[[], object]] = {
        "E11 of the batch": lambda: clip.encode(images),
        "parts, fp32": lambda: parts((clip, dino)),
        "iteration, fp32": iteration("fp32"),
        "encoder forwards": forwards,
        "prediction": lambda: whole.segment_photo(photo, crf=False),
    }
    # where it is emulated nobody takes it, and half a minute goes into an iteration
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if bf16_share("cpu") <= 1 else ("fp32",)
    if "bf16" in precisions:
        reduced = vit_b16_clip("bf16"), vit_s16_dino("bf16")
        candidates["parts, bf16"] = lambda: parts(reduced)
        candidates["iteration, bf16"] = iteration("bf16")
    seconds = medians(candidates)
    ratios = [
        Ratio(
            f"iteration, {each}",
            seconds[f"iteration, {each}"],
            f"encoders and decoder, {each}",
            seconds[f"parts, {each}"],
            1.3,
        )
        for each in precisions
    ]
    name, reference = "iteration, fp32", "E11 of the batch"
    ratios.append(Ratio(name, seconds[name], reference, seconds[reference], 1.8))
    reference = "encoder forwards"
    ratios.append(Ratio("prediction", seconds["prediction"], reference, seconds[reference], 1.15))
    finish("train", ratios)


if __name__ == "__main__":
    main()
