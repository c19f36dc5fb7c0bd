"""What Figure 6 shows: foreground features of a whole split, in CLIP's space and in CMPA's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from ssrseg.checkpoint import data_digest, model_digest
from ssrseg.config import deciding_settings
from ssrseg.console import steps
from ssrseg.data.files import atomic_write
from ssrseg.data.kept_tensors import kept_tensors
from ssrseg.data.photos import photo_batches
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.stamped_mask import digest_of
from ssrseg.errors import DataError, PackageError
from ssrseg.method.cmpa import Alignment, pool_foreground, usable_pairs
from ssrseg.model import SSR
from ssrseg.paper.separation import Separation, separation
from ssrseg.trained_parts import without_training

PER_CLASS = 200
"""Pairs of a class that are embedded (our choice)."""

MAX_CLASSES = 20
"""As many colours as there are; of more classes, those with the most pairs are shown."""

CHUNK = 64
"""Images between two saves; those of one size among them are looked at together."""

PERPLEXITY, SEED = 30.0, 0
"""Of the t-SNE, our choice."""

CLIP, CMPA, UNTRAINED = "CLIP", "CMPA", "untrained projector"


@dataclass(frozen=True)
class Space:
    """Features of one space, not normalised.

    Attributes:
        image: f_image of each pair: MAP(CAM_c, V), or of V' = ISA(V), with CLIP's CAM.
        text: Text features by class: T, or T'.
    """

    image: Float[Tensor, "pairs dim"]
    text: Float[Tensor, "classes dim"]


@dataclass(frozen=True)
class Embedding:
    """The pairs of a split.

    Attributes:
        classes: Class of each pair.
        spaces: By name: CLIP, and with CMPA's heads also CMPA and the untrained projector, the
            control that shows what training did (absent where heads begin at random).
        images: Images that were looked at.
    """

    classes: Int[Tensor, " pairs"]
    spaces: dict[str, Space]
    images: int


@dataclass(frozen=True)
class Plane:
    """A space embedded in the plane.

    Attributes:
        image: A point for each pair.
        text: A point for each class shown, in the order of ``shown``.
        classes: Class of each pair.
        shown: Classes that have pairs, ascending.
        separation: Numbers of the space itself, not of the plane.
    """

    image: Float[np.ndarray, "pairs 2"]
    text: Float[np.ndarray, "shown 2"]
    classes: Int[np.ndarray, " pairs"]
    shown: tuple[int, ...]
    separation: Separation


def import_tsne() -> Any:
    """scikit-learn's t-SNE.

    Raises:
        PackageError: If it is not installed; it is optional.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise PackageError(
            f"t-SNE is scikit-learn's, which cannot be imported here ({error}). Install it with"
            ' pip install "ssrseg[figures]".'
        ) from error
    return TSNE


def plane(space: Space, classes: Int[Tensor, " pairs"]) -> Plane:
    """T-SNE of the image features together with the texts of their classes.

    Unit features, cosine metric, perplexity 30 or what few points allow, PCA start, seed 0.
    """
    shown = classes.unique()
    points = torch.cat([space.image, space.text[shown]]).double().numpy()
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    tsne = import_tsne()(
        perplexity=min(PERPLEXITY, (len(points) - 1) / 3),
        init="pca",
        metric="cosine",
        random_state=SEED,
    )
    image, text = np.split(tsne.fit_transform(points), [len(space.image)])
    numbers = separation(space.image, classes, space.text)
    return Plane(image, text, classes.numpy(), tuple(shown.tolist()), numbers)


def embed(model: SSR, data: LabelledImages, folder: Path, *, run: Path | None = None) -> Embedding:
    """Pool the features of every (image, class) pair, at most 200 of a class.

    Args:
        model: Encoders, settings, and CMPA's heads where there are.
        data: Images in the order in which they are taken; only image-level labels are read.
        folder: Features are kept here, under a name made of settings, data and weights, so that an
            interrupted call goes on and a figure can be drawn anew.
        run: Run folder or checkpoint that the heads are from.

    Raises:
        DataError: If fewer than two classes have pairs.
    """
    heads = _heads(model)
    kept = folder / f"features.{_digest(model, data, run)}.safetensors"
    texts = _texts(model, heads)
    rows = _rows_so_far(kept_tensors(kept), texts, len(data))
    done = int(rows["done"]) if rows else 0
    taken = Counter(rows["classes"].tolist()) if rows else Counter()
    with steps("Features", len(data), done=done) as progress:
        for first in range(done, len(data), CHUNK):
            chunk = data.samples[first : first + CHUNK]
            wanted = [s for s in chunk if any(taken[c] < PER_CLASS for c in s.labels)]
            if wanted:
                new = _pool(model, heads, wanted)
                fits = []
                for index in new["classes"].tolist():
                    fits.append(taken[index] < PER_CLASS)
                    taken[index] += fits[-1]
                new = {name: values[torch.tensor(fits).bool()] for name, values in new.items()}
                rows = {n: torch.cat([rows[n], v]) for n, v in new.items()} if rows else new
                rows["done"] = torch.tensor(first + len(chunk))
                with atomic_write(kept) as temporary:
                    save_file({name: each.contiguous() for name, each in rows.items()}, temporary)
            for sample in chunk:
                progress.advance(sample.name)
    if not rows or len(rows["classes"].unique()) < 2:
        raise DataError(
            f"The {len(data)} images of {data.root} give pairs of fewer than two classes; nothing"
            " can lie apart. Name a larger --split, or --set cmpa.min_patches=1 if the CAMs of"
            " small images are too small to pool from."
        )
    return _most_frequent(rows, texts, len(data))


def _heads(model: SSR) -> dict[str, Alignment]:
    if model.alignment is None:
        return {}
    start = without_training(model.alignment, model.config.cmpa.temperature)
    return {CMPA: model.alignment} | ({} if start is None else {UNTRAINED: start})


@torch.no_grad()
def _pool(model: SSR, heads: dict[str, Alignment], samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Classes and features of the pairs, in the order of the samples."""
    config = model.config
    rows: dict[str, list[Tensor]] = {name: [] for name in ("image", "classes", CLIP, *heads)}
    for batch in photo_batches(samples, config.data, model.patch_size, None, model.device):
        # CLIP's CAM pools in every space: (batch, slots, grid_h, grid_w)
        initial = model.initial_cam(model.encode(batch.image), batch.present, with_clip=True)
        cam = initial.clip_cam
        assert cam is not None
        usable = usable_pairs(cam.flatten(2), batch.present, min_patches=config.cmpa.min_patches)
        image = torch.tensor(batch.index, device=cam.device)[:, None].expand_as(batch.present)
        rows["image"].append(image[usable].cpu())
        rows["classes"].append(batch.present[usable].cpu())
        features = {CLIP: initial.patch_features} | {
            name: each.isa(initial.patch_features) for name, each in heads.items()
        }
        for name, values in features.items():
            rows[name].append(pool_foreground(values, cam)[0][usable].cpu())
    found = {name: torch.cat(parts) for name, parts in rows.items()}
    order = found.pop("image").argsort(stable=True)  # whatever was batched with what
    return {name: values[order] for name, values in found.items()}


@torch.no_grad()
def _texts(model: SSR, heads: dict[str, Alignment]) -> dict[str, Tensor]:
    text, n = model.text_features, model.n_classes
    spaces = {CLIP: text[:n]} | {name: each.tsa(text)[:n] for name, each in heads.items()}
    return {name: rows.cpu() for name, rows in spaces.items()}


def _most_frequent(rows: dict[str, Tensor], texts: dict[str, Tensor], images: int) -> Embedding:
    count = Counter(rows["classes"].tolist())
    ranked = sorted(count, key=lambda index: (-count[index], index))[:MAX_CLASSES]
    shown = torch.isin(rows["classes"], torch.tensor(ranked))
    spaces = {name: Space(rows[name][shown], text) for name, text in texts.items()}
    return Embedding(rows["classes"][shown], spaces, images)


def _digest(model: SSR, data: LabelledImages, run: Path | None) -> str:
    """A name for all that decides the features; another one if an image or encoder is replaced."""
    parts = (
        version("ssrseg"),
        deciding_settings(model.config),
        model.vocabulary.texts,
        data_digest(data),
        sorted(model.encoders.items()),
        "" if run is None else model_digest(run),
    )
    return digest_of(repr(parts))


def _rows_so_far(
    kept: dict[str, Tensor], texts: Mapping[str, Tensor], images: int
) -> dict[str, Tensor]:
    """Rows that an earlier call has pooled; none if they have another form."""
    if set(kept) != {"classes", "done", *texts}:
        return {}
    if kept["done"].shape != () or kept["done"].dtype != torch.long:
        return {}
    classes, done = kept["classes"], int(kept["done"])
    known = len(next(iter(texts.values())))
    fits = (
        0 <= done <= images
        and classes.ndim == 1
        and classes.dtype == torch.long
        and bool(((classes >= 0) & (classes < known)).all())
        and all(
            kept[name].shape == (len(classes), text.shape[1]) and kept[name].dtype == text.dtype
            for name, text in texts.items()
        )
    )
    return kept if fits else {}
