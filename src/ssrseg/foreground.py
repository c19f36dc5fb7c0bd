"""Foreground features of the training set (Eq. 2), from which prototypes and pairs come."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssrseg.checkpoint import data_digest
from ssrseg.config import deciding_settings
from ssrseg.console import steps
from ssrseg.data.files import atomic_write
from ssrseg.data.photos import PhotoBatch, photo_batches
from ssrseg.data.sample import LabelledImages
from ssrseg.data.stamped_mask import digest_of
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.method.cam import min_max
from ssrseg.method.cmpa import background_words, pool_foreground, usable_pairs
from ssrseg.model import SSR, InitialCam
from ssrseg.networks.frozen import weights_digest
from ssrseg.processes import ALONE, Group


@dataclass(frozen=True)
class ForegroundFeatures:
    """One row per pair (image, present class), and one per image for its background.

    Attributes:
        pooled: MAP(CAM_c, V): CLIP's features (or ISA's, where every patch is aligned first).
        image_index: Row of the training set that a pair belongs to.
        classes: Class of a pair.
        background: MAP(1 - max CAM, V) of each image.
        mean: Mean of V of each image, for the basis of the heads (``shared_basis``).
    """

    pooled: Float[Tensor, "pairs dim"]
    image_index: Int[Tensor, " pairs"]
    classes: Int[Tensor, " pairs"]
    background: Float[Tensor, "images dim"]
    mean: Float[Tensor, "images dim1"]

    def with_backgrounds(
        self, text: Float[Tensor, "words dim"], n_classes: int
    ) -> tuple[Float[Tensor, "rows dim"], Int[Tensor, " rows"]]:
        """Features and classes with K = C + M: every image is a pair of its background word, too.

        Args:
            text: T, unit norm, the classes first; without backgrounds nothing is added.
            n_classes: C.
        """
        if len(text) == n_classes:
            return self.pooled, self.classes
        words = background_words(self.background, text.to(self.background), n_classes)
        return torch.cat([self.pooled, self.background]), torch.cat([self.classes, words])

    def save(self, path: Path) -> None:
        """Write atomically, with a digest of the numbers."""
        tensors = {entry.name: getattr(self, entry.name).contiguous() for entry in fields(self)}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"digest": weights_digest(tensors)})

    @classmethod
    def load(cls, path: Path) -> ForegroundFeatures | None:
        """Read what ``save`` wrote; None if that is missing or damaged."""
        try:
            with safe_open(path, framework="pt") as reader:
                digest = (reader.metadata() or {}).get("digest")
                tensors = {name: reader.get_tensor(name).clone() for name in reader.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return cls(**tensors) if weights_digest(tensors) == digest else None


def frozen_foreground(
    model: SSR,
    data: LabelledImages,
    superpixels: SuperpixelCache,
    folder: Path | None,
    *,
    group: Group = ALONE,
) -> ForegroundFeatures:
    """``collect_foreground`` with CLIP's CAM or its corrected form, kept for other runs.

    No head has a part in it, so that runs of other seeds, losses and heads share one pass.

    Args:
        folder: Where it is kept, in a file named after all that decides it; None = nowhere.
        group: Each process looks at its share; all have all features.
    """
    if folder is None:
        return collect_foreground(model, data, superpixels, aligned=False, group=group)
    path = folder / f"{_frozen_name(model, data, group)}.safetensors"
    found = group.first(lambda: ForegroundFeatures.load(path))
    if found is None:
        found = collect_foreground(model, data, superpixels, aligned=False, group=group)
        if group.is_first:
            found.save(path)
    return found


def _frozen_name(model: SSR, data: LabelledImages, group: Group) -> str:
    """A name for all that decides the features that frozen CLIP's CAM pools."""
    config = model.config
    ignored = {"decoder", "optim", "test", "pseudo", "data.crop", "data.scale", "data.flip"}
    ignored |= {"cam.mode", "cam.readout", "cmpa"}
    encoders = model.encoders
    if config.cmpa.cam_source == "clip":  # nothing is propagated
        ignored |= {"affinity", "sgc"}
        encoders = {"clip": encoders["clip"]}
    decides = (
        deciding_settings(config, ignored),
        (config.cmpa.cam_source, config.cmpa.min_patches, config.data.patches),
        model.vocabulary.texts,
        encoders,
        model.device.type,
        [version(each) for each in ("ssrseg", "torch", "transformers")],
    )
    return digest_of(repr(decides), data_digest(data, group=group))


@torch.no_grad()
def collect_foreground(
    model: SSR,
    data: LabelledImages,
    superpixels: SuperpixelCache,
    *,
    aligned: bool,
    group: Group = ALONE,
) -> ForegroundFeatures:
    """One pass over the training images, each at its own size.

    Args:
        model: Its settings say which CAM pools, and its heads are used where that is CMPA's.
        data: Training images; only image-level labels are read.
        superpixels: Needed where the pooling CAM is the corrected one.
        aligned: Align every patch by ISA before pooling (Eq. 1, then Eq. 2, as printed).
        group: Each process looks at its share; all have all features.
    """
    rows: dict[str, list[Tensor]] = {entry.name: [] for entry in fields(ForegroundFeatures)}
    order: list[int] = []
    refined = model.config.cmpa.cam_source == "refined" and model.wants_superpixels
    mine = group.share(data.samples)
    batches = photo_batches(
        mine,
        model.config.data,
        model.patch_size,
        superpixels if refined else None,
        model.device,
    )
    with steps("Foreground features", len(mine)) as progress:
        for batch in batches:
            # weights of Eq. 2: (batch, slots, grid_h, grid_w)
            initial = model.initial_cam(model.encode(batch.image), batch.present, with_clip=True)
            cam = _pooling_cam(model, batch, initial)
            # Eq. 2: (batch, slots, dim) and (batch, dim)
            features = initial.patch_features
            if aligned:
                assert model.alignment is not None
                features = model.alignment.isa(features)
            pooled, background = pool_foreground(features, cam)
            # one row per usable pair
            usable = usable_pairs(
                cam.flatten(2), batch.present, min_patches=model.config.cmpa.min_patches
            )
            # rows of the whole training set
            own = [group.rank + group.size * index for index in batch.index]
            index = torch.tensor(own, device=model.device)[:, None].expand_as(batch.present)
            rows["pooled"].append(pooled[usable].cpu())
            rows["classes"].append(batch.present[usable].cpu())
            rows["image_index"].append(index[usable].cpu())
            rows["background"].append(background.cpu())
            rows["mean"].append(initial.patch_features.mean(1).cpu())
            order += own
            for _ in batch.index:
                progress.advance()
    parts = group.all((rows, order))
    found = {name: torch.cat([each for part, _ in parts for each in part[name]]) for name in rows}
    # batches may be in another order than the samples
    by_pair = found["image_index"].argsort(stable=True)
    by_image = torch.tensor([row for _, some in parts for row in some]).argsort()
    return ForegroundFeatures(
        pooled=found["pooled"][by_pair],
        image_index=found["image_index"][by_pair],
        classes=found["classes"][by_pair],
        background=found["background"][by_image],
        mean=found["mean"][by_image],
    )


def _pooling_cam(
    model: SSR, batch: PhotoBatch, initial: InitialCam
) -> Float[Tensor, "batch slots grid_h grid_w"]:
    """CLIP's CAM, its corrected form, or the model's own, as ``cmpa.cam_source`` says."""
    source = model.config.cmpa.cam_source
    cam = initial.cam if source == "cmpa" else initial.clip_cam
    assert cam is not None
    if source != "refined":
        return cam
    regions = model.colour_regions(batch.image, batch.superpixels, batch.n_superpixels)
    affinity = model.affinity(batch.image, initial)
    return min_max(model.refined_cam(cam, affinity, model.target_regions(cam, regions)))
