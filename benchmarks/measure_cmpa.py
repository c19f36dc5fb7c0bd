"""Why CMPA's GradCAM gains or loses: layers, iterations, background words, the pooling CAM.

    python -m benchmarks.measure_cmpa lengths --preset demo --data demo-run/seed-0/scenes
    python -m benchmarks.measure_cmpa words   --preset demo --data demo-run/seed-0/scenes
    python -m benchmarks.measure_cmpa pooling --preset demo --data demo-run/seed-0/scenes

Prints mIoU % of initial CAMs at the best exponent, by read-out. Heads are trained as preset and
settings say, but on features that are collected once. ``pooling`` opens true masks: it asks what
CMPA would learn if Eq. 2 pooled inside other maps, and is no result.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.nn import functional

from ssrseg.config import Config, load_config
from ssrseg.data.class_ids import read_truth
from ssrseg.data.crops import derive_seed
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import photo_batches
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.foreground import ForegroundFeatures, collect_foreground
from ssrseg.losses import draw_pairs, proto_loss
from ssrseg.method.cmpa import image_prototypes, pool_foreground
from ssrseg.method.peers import centre_prior
from ssrseg.model import SSR
from ssrseg.paper.cam_seeds import ALPHAS, score_seeds
from ssrseg.paper.rows import RAW, READOUTS
from ssrseg.trained_parts import first_seed, new_alignment
from ssrseg.training_state import learning_rate

WORDS = {
    "the preset's": (),
    "five of them": ("grass", "sky", "water", "road", "wall"),
    "two of them": ("grass", "sky"),
    "ten that show nothing here": (
        *("zebra", "lamp", "guitar", "phone", "shirt"),
        *("pencil", "engine", "bread", "glove", "clock"),
    ),
    "VOC's": (
        *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river"),
        *("sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain"),
        *("ocean", "road", "rock", "street", "valley", "bridge", "sign"),
    ),
}


def trained(model: SSR, found: ForegroundFeatures, labels: torch.Tensor, config: Config) -> SSR:
    """The model with heads trained as ``ssrseg train`` does when pairs come from the cache."""
    optim, cmpa = config.optim, config.cmpa
    torch.manual_seed(first_seed(optim.seed))
    heads = new_alignment(cmpa, model.text_features, found.mean)
    model = model.with_config(config, alignment=heads)
    weights = [weight for weight in heads.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=optim.weight_decay)
    prototypes = torch.empty(0)
    for iteration in range(optim.cmpa_iterations):
        if iteration % cmpa.update_every == 0:
            with torch.no_grad():
                pooled, classes = found.pooled, found.classes
                if cmpa.bg_prototypes != "none":
                    pooled, classes = found.with_backgrounds(model.text_features, model.n_classes)
                text = heads.tsa(model.text_features)[: model.n_prototypes]
                made = image_prototypes(heads.isa(pooled), classes, text, method=cmpa.proto)
                prototypes = made.image
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                optim.cmpa_lr, iteration, optim.cmpa_iterations, optim.warmup, optim.power
            )
        pairs = draw_pairs(model, found, labels, derive_seed(optim.seed, iteration, 2))
        optimizer.zero_grad()
        proto_loss(model, pairs, prototypes).backward()
        optimizer.step()
        heads.clamp_temperature()
    return model


def pooled_in(model: SSR, data: LabelledImages, kind: str) -> ForegroundFeatures:
    """Features pooled inside the true masks, or inside a map that is high in the middle."""
    rows: dict[str, list[torch.Tensor]] = {"pooled": [], "classes": [], "index": []}
    background, mean, order = [], [], []
    for batch in photo_batches(
        data.samples, model.config.data, model.patch_size, None, model.device
    ):
        initial = model.initial_cam(model.encode(batch.image), batch.present, with_clip=True)
        cam = centre_prior(batch.present, initial.features.grid)
        if kind == "true masks":
            cam = torch.zeros_like(initial.cam)
            for row, index in enumerate(batch.index):
                sample, size = data.samples[index], tuple(batch.originals[row].shape[:2])
                assert sample.truth is not None
                truth = read_truth(sample.truth, size, model.n_classes, sample.labels)
                for slot, name in enumerate(batch.present[row].tolist()):
                    inside = (truth == name + 1).float()[None, None]
                    shrunk = functional.adaptive_avg_pool2d(inside, initial.features.grid)
                    cam[row, slot] = shrunk[0, 0] if name >= 0 else 0
        pooled, behind = pool_foreground(initial.patch_features, cam)
        used = (batch.present >= 0) & (cam.flatten(2).sum(-1) > 1)
        index = torch.tensor(batch.index)[:, None].expand_as(batch.present)
        rows["pooled"].append(pooled[used])
        rows["classes"].append(batch.present[used])
        rows["index"].append(index[used])
        background.append(behind)
        mean.append(initial.patch_features.mean(1))
        order += batch.index
    back = torch.tensor(order).argsort()
    return ForegroundFeatures(
        torch.cat(rows["pooled"]),
        torch.cat(rows["index"]),
        torch.cat(rows["classes"]),
        torch.cat(background)[back],
        torch.cat(mean)[back],
    )


def variants(study: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names and settings of what is trained."""
    if study == "lengths":
        for depth in (1, 2):
            for length in (100, 200, 300, 400, 600, 1000):
                yield (
                    f"{depth} layer(s), {length} iterations",
                    (f"cmpa.depth={depth}", f"optim.cmpa_iterations={length}"),
                )
    elif study == "words":
        yield "L_crossmodal, one layer", ("cmpa.depth=1",)
    else:
        yield "one layer", ("cmpa.depth=1",)
        yield "two layers", ("cmpa.depth=2",)
        yield (
            "TSA alone, K = C + M, P_T moves",
            ("cmpa.trained=tsa", "cmpa.bg_prototypes=pull", "cmpa.text_gradient=true"),
        )


def main() -> None:
    """Train, score in one pass over the images, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=("lengths", "words", "pooling"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="ssr")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--seed-split", default="train")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    given = parser.parse_args()
    train = open_labelled(given.data, split=given.train_split)
    scored = open_labelled(given.data, split=given.seed_split)
    worlds = {name: words for name, words in WORDS.items()} if given.study == "words" else {"": ()}
    none = SuperpixelCache(None, n_segments=1, compactness=1.0)
    print("| what | words | seed | " + " | ".join(READOUTS) + " |")
    print("|---|---|---|" + "---|" * len(READOUTS))
    for world, words in worlds.items():
        data, seen = (replace(each, background=words) for each in (train, scored))
        base = load_config(given.preset, overrides=[*given.settings, *RAW])
        model = SSR.for_data(base, data, device="cpu")
        kinds = ("CLIP's CAM",)
        if given.study == "pooling":
            kinds, data = ("CLIP's CAM", "true masks", "the middle"), seen
        models: dict[str, SSR] = {"CLIP": model.with_config(with_set(base, "cam.mode=clip"))}
        for kind in kinds:
            found = (
                collect_foreground(model, data, none, aligned=False)
                if kind == "CLIP's CAM"
                else pooled_in(model, data, kind)
            )
            for name, settings in variants(given.study):
                for seed in range(given.seeds):
                    config = with_set(base, *settings, f"optim.seed={seed}")
                    one = trained(model, found, torch.from_numpy(data.labels), config)
                    for readout in READOUTS:
                        read = with_set(config, f"cam.readout={readout}")
                        models[f"{kind}, {name} | {world} | {seed} | {readout}"] = one.with_config(
                            read
                        )
        scores = score_seeds(models, seen, none, alphas=ALPHAS)
        print(f"| CLIP | {world} | | {100 * scores['CLIP'].scores.miou:.1f} | | |")
        names = dict.fromkeys(key.rsplit(" | ", 1)[0] for key in models if key != "CLIP")
        for name in names:
            cells = [100 * scores[f"{name} | {readout}"].scores.miou for readout in READOUTS]
            print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)


def with_set(config: Config, *overrides: str) -> Config:
    """Settings with some changed."""
    return load_config(base=config.to_dict(), overrides=overrides)


if __name__ == "__main__":
    main()
