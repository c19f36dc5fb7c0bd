"""Seconds and bytes of an image in each stage, from which docs/scale.md counts.

    python benchmarks/measure_scale.py DATA

DATA is a VOC 2012 folder with true masks. Encoders have their true size and random weights; masks
and manifest lines, whose bytes depend on what the encoders know, are counted on the true masks.
Seconds are of the processor, with one thread: where others use the machine as well, the clock says
nothing, and processor seconds grow by what they take from its caches. Median of the images, and the
spread: what the slowest of ten takes. Only the look-ups for a merge are by number of lines.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from random_encoders import vit_b16_clip, vit_s16_dino
from timing import commit, processor

from ssrseg.cam_source import cams_to_keep
from ssrseg.config import load_config
from ssrseg.data.class_ids import read_truth
from ssrseg.data.classes import VOC_CLASSES
from ssrseg.data.files import content_digest, write_json
from ssrseg.data.images import read_image
from ssrseg.data.open import open_labelled
from ssrseg.data.photos import Photo, join_photos
from ssrseg.data.sample import Sample
from ssrseg.data.stamped_mask import mask_ids, write_mask
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side
from ssrseg.feature_cache import cache_bytes
from ssrseg.kept_cams import write_cams
from ssrseg.manifest import FILE, Manifest
from ssrseg.method.crf import dense_crf
from ssrseg.model import SSR
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.vocabulary import build_vocabulary
from ssrseg.photo_masks import photo_masks
from ssrseg.pixel_scores import mask_of_cam
from ssrseg.review import Review

Found = TypeVar("Found")
LINES = 20_000
REVIEW = Review(0.512, ("mask runs along the edge of the image",))


class Stages:
    """Processor seconds and bytes by stage, a list of images each."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.bytes: dict[str, list[int]] = defaultdict(list)

    def timed(self, stage: str, run: Callable[..., Found], *given: object) -> Found:
        """What ``run`` gives; its seconds are noted."""
        start = time.process_time()
        found = run(*given)
        self.seconds[stage].append(time.process_time() - start)
        return found


def measure(data: Path, images: int, slow: int, folder: Path) -> Stages:
    """All stages of ``images`` photographs, those with encoders of ``slow`` of them."""
    torch.set_num_threads(1)
    labelled, stages = open_labelled(data, split="val"), Stages()
    config = load_config("ssr", overrides=("pseudo.refine=none",))
    vocabulary = build_vocabulary(VOC_CLASSES, "voc")
    clip, dino = vit_b16_clip(), vit_s16_dino()
    decoder = Decoder(clip.depth - 1, clip.width, len(VOC_CLASSES))
    model = SSR(config, clip, dino, vocabulary, decoder=decoder)
    superpixels = SuperpixelCache.of(folder / "superpixels", config.sgc)
    plain = load_config("ssr").pseudo
    ways = {"PAR": plain, "DenseCRF": replace(plain, refine="crf")}
    step = len(labelled.samples) // images
    for number, sample in enumerate(labelled.samples[::step][:images]):
        stages.bytes["photograph"].append(sample.image.stat().st_size)
        digest = stages.timed("content", content_digest, sample.image)
        photo = stages.timed("read and decode", read_image, sample.image)
        small = limit_side(photo, config.data.max_side)
        ids = stages.timed("SLIC", superpixels, small)
        stages.bytes["superpixels"].append(superpixels.path(small).stat().st_size)
        size = (photo.shape[0], photo.shape[1])
        truth = read_truth(sample.truth, size, len(VOC_CLASSES), sample.labels)
        mask = folder / "masks" / f"{sample.name}.png"
        stages.timed("write mask", write_mask, mask, truth, "0" * 16, REVIEW.to_text())
        stages.bytes["mask"].append(mask.stat().st_size)
        stages.timed("look whether it is done", mask_ids, mask, "0" * 16)
        stages.bytes["features"].append(cache_bytes(config, model, [size]))
        if number >= slow:
            continue
        batch = join_photos([Photo(0, photo, small, ids)], [sample.labels], 16, model.device)
        found = stages.timed("encoders and CAM", photo_masks, model, batch)[0]
        cams, path = cams_to_keep(found, VOC_CLASSES), folder / "cams" / f"{sample.name}.npz"
        stages.timed("write CAMs", write_cams, path, cams, digest)
        stages.bytes["CAMs"].append(path.stat().st_size)
        unit = small.permute(2, 0, 1).float() / 255
        for name, settings in ways.items():
            stages.timed(name, mask_of_cam, cams.refined_cam, sample.labels, unit, settings)
        probabilities = stages.timed("predict", model.probabilities, photo)
        refined = partial(dense_crf, iterations=config.test.crf_iterations)
        given = (small, probabilities, *config.test.crf_parameters)
        stages.timed("predict: DenseCRF of all classes", refined, *given)
        print(sample.name, {name: round(each[-1], 3) for name, each in stages.seconds.items()})
    return stages


def measure_lines(folder: Path) -> dict[str, float]:
    """A table of many masks: bytes and memory a line, and seconds a line to read and write it."""
    ids, path = torch.tensor([[0, 8, 12]], dtype=torch.uint8), folder / FILE
    manifest = Manifest(path, tuple(VOC_CLASSES))
    start = time.process_time()
    for number in range(LINES):
        sample = Sample(f"2007_{number:06d}", folder / f"2007_{number:06d}.jpg", (7, 11), None)
        manifest.add(sample, ids, "0123456789abcdef", "ssrseg", REVIEW)
    added = time.process_time()
    tracemalloc.start()
    again = Manifest(path, tuple(VOC_CLASSES))  # reads and writes it
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    start_again = time.process_time()
    del again
    Manifest(path, tuple(VOC_CLASSES))
    return {
        "bytes": path.stat().st_size / LINES,
        "memory": held / LINES,
        "append": (added - start) / LINES,
        "read and write": (time.process_time() - start_again) / LINES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=36)
    parser.add_argument("--slow", type=int, default=12, help="of these, images for the encoders")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stages = measure(chosen.data, chosen.images, chosen.slow, Path(name))
        lines = measure_lines(Path(name))
    table = {
        "commit": commit(),
        "processor": processor(),
        "seconds": {
            name: {
                "median": statistics.median(each),
                "slowest of ten": sorted(each)[int(0.9 * len(each))],
                "mean": statistics.fmean(each),
                "images": len(each),
            }
            for name, each in stages.seconds.items()
        },
        "each": dict(stages.seconds),
        "bytes": {name: statistics.fmean(each) for name, each in stages.bytes.items()},
        "manifest line": lines,
    }
    for name, figures in table["seconds"].items():
        print(f"{name:34}", {key: round(value, 4) for key, value in figures.items()})
    for name, mean in table["bytes"].items():
        print(f"{name:34} {mean:12,.0f} bytes")
    print("a line of the manifest", lines)
    write_json(Path(__file__).parent / "results" / "scale.json", table)


if __name__ == "__main__":
    main()
