"""CAMs and pseudo mask of a photograph whose classes are known, by a model in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssrseg.data.class_ids import read_truth
from ssrseg.data.images import read_image
from ssrseg.data.photos import Photo, PhotoBatch, join_photos
from ssrseg.data.sample import LabelledImages
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side
from ssrseg.method.cam import min_max
from ssrseg.method.metrics import confusion_matrix, scores, undecided_pixels
from ssrseg.model import SSR, Rectification
from ssrseg.pixel_scores import enlarged_ids
from ssrseg.processes import ALONE, Group


@dataclass(frozen=True)
class PhotoMask:
    """What ``rectify_photo`` finds in one photograph.

    Attributes:
        labels: Class indices, in the order of the maps.
        cam: Initial CAMs in [0, 1], one per class.
        refined_cam: Corrected CAMs, min-max normalised.
        pseudo_mask: Class ids at the photograph's own size.
        evidence: Of every class, labelled or not, in [0, 1].
        rectification: Everything in between, of the whole batch.
    """

    labels: tuple[int, ...]
    cam: Float[Tensor, "slots grid_h grid_w"]
    refined_cam: Float[Tensor, "slots grid_h grid_w"]
    pseudo_mask: UInt8[Tensor, "height width"]
    evidence: Float[Tensor, " classes"]
    rectification: Rectification


def rectify_photo(
    model: SSR,
    photo: UInt8[Tensor, "height width 3"],
    labels: tuple[int, ...],
    superpixels: SuperpixelCache,
) -> PhotoMask:
    """CAMs and pseudo mask of one photograph with the classes in it."""
    small = limit_side(photo, model.config.data.max_side)
    ids = superpixels(small) if model.wants_superpixels else None
    whole = Photo(0, photo, small, ids)
    return photo_masks(model, join_photos([whole], [labels], model.patch_size, model.device))[0]


def photo_masks(model: SSR, batch: PhotoBatch) -> list[PhotoMask]:
    """CAMs and pseudo masks of photographs of one size; BackboneError if they are not finite."""
    way = model.rectify_batch(batch)
    model.refuse_not_finite(way)
    ids, cam, refined = (each.cpu() for each in (way.pseudo_mask, way.initial.cam, way.refined_cam))
    evidence = model.class_evidence(way.initial).cpu()
    found = []
    for row, slots in enumerate(batch.present.tolist()):
        labels = tuple(index for index in slots if index >= 0)
        size, n = batch.originals[row].shape[:2], len(labels)
        enlarged = enlarged_ids(ids[row], (size[0], size[1]))
        maps = cam[row, :n], min_max(refined[row, :n])
        found.append(PhotoMask(labels, *maps, enlarged, evidence[row], way))
    return found


def pseudo_mask_miou(
    model: SSR, data: LabelledImages, superpixels: SuperpixelCache, group: Group = ALONE
) -> float:
    """MIoU of the pseudo masks of images whose true masks are known, for monitoring.

    Each process of the ``group`` makes the masks of its share.
    """
    n_classes = len(data.classes) + 1
    matrix = torch.zeros(n_classes, n_classes, dtype=torch.long)
    undecided = torch.zeros(n_classes, dtype=torch.long)
    settings = model.config.data
    for sample in group.share(data.samples):
        if sample.truth is not None:
            photo = read_image(sample.image, settings.range, settings.bands)
            ids = rectify_photo(model, photo, sample.labels, superpixels).pseudo_mask
            size = (photo.shape[0], photo.shape[1])
            truth = read_truth(sample.truth, size, len(data.classes), sample.labels)
            decided = ids != 255
            matrix += confusion_matrix(ids[decided], truth[decided], n_classes)
            undecided += undecided_pixels(ids, truth, n_classes)
    return scores(group.sum(matrix), group.sum(undecided)).miou
