"""SSR as one object: Figure 2 of the paper, from top to bottom.

Image and labels -> CLIP's features -> initial CAM (CMPA) -> target regions and affinity -> refined
CAM (SGC) -> pseudo mask: that is ``SSR.forward``. The decoder learns from these masks in
``losses.seg_loss`` and segments new photographs in ``SSR.segment``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ssrseg.checkpoint import Checkpoint
from ssrseg.config import Config, PseudoConfig
from ssrseg.data.classes import label_indices
from ssrseg.data.files import user_path
from ssrseg.data.images import as_photo
from ssrseg.data.large import (
    HeldImage,
    LargeImage,
    Tiling,
    header_of_pil,
    open_large,
    tiling_of,
    tiling_of_size,
    undecide_absent,
)
from ssrseg.data.photos import Photo, PhotoBatch, join_photos, patches_at_once
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side, patch_grid, resize, to_unit
from ssrseg.errors import (
    BackboneError,
    CheckpointError,
    ConfigError,
    DataError,
    LabelsError,
    counted,
)
from ssrseg.loading import Loadable
from ssrseg.method.affinity import balance, feature_attention, fuse_attention
from ssrseg.method.cam import (
    allowed_words,
    combined_cam,
    gradcam,
    min_max,
    patch_cam,
    word_probability,
)
from ssrseg.method.cmpa import Alignment
from ssrseg.method.crf import dense_crf
from ssrseg.method.evidence import class_evidence, pixel_confidence
from ssrseg.method.gradcam_closed_form import BlockTrace, gradcam_closed_form
from ssrseg.method.peers import (
    box_patches,
    centre_prior,
    class_distribution_affinity,
    colour_position_kernel,
    decoder_gate,
    feature_affinity,
)
from ssrseg.method.pseudo_mask import class_ids
from ssrseg.method.sgc import colour_regions, corrected_cam, target_patches
from ssrseg.method.tiles import Span, blended_blocks
from ssrseg.networks.attention import mean_attention
from ssrseg.networks.clip import ClipFeatures, FrozenCLIP
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.dino import USUAL_PIXELS as IMAGENET_PIXELS
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.frozen import PixelNorm
from ssrseg.networks.vocabulary import Vocabulary, refuse_lone_texts
from ssrseg.pixel_scores import enlarged, enlarged_ids, mask_scores, sharpen_scores
from ssrseg.results import RectifiedImage, SegmentedImage
from ssrseg.review import Review, review_prediction
from ssrseg.tiled import (
    HeldRows,
    Look,
    blocks_of_cam,
    labelled_choice,
    paint,
    tiled_look,
    undecided_where_absent,
)


@dataclass(frozen=True)
class InitialCam:
    """The CAM before SGC, and what it was read from.

    Attributes:
        features: Output of every block of CLIP but the last.
        patch_features: V, CLIP's patch features, not normalised.
        attention: CLIP's attention in the blocks that the affinity needs, averaged over heads.
        clip_cam: CAM of frozen CLIP, in [0, 1]; None where only CMPA's was asked for.
        cam: The CAM that SGC corrects, CLIP's or CMPA's, in [0, 1].
    """

    features: ClipFeatures
    patch_features: Float[Tensor, "batch patches dim1"]
    attention: tuple[Float[Tensor, "batch patches patches"], ...]
    clip_cam: Float[Tensor, "batch slots grid_h grid_w"] | None
    cam: Float[Tensor, "batch slots grid_h grid_w"]


@dataclass(frozen=True)
class Rectification:
    """A batch on its way through Figure 2.

    Attributes:
        present: Classes of each image, -1 = empty slot.
        initial: The CAM before SGC.
        regions: Colour regions R_k per pixel (Eq. 8), -1 = padding; None without SGC's mask.
        target: Patches of each class from which activation may spread (Eq. 8); None = all.
        affinity: A (Eq. 9); None without propagation.
        refined_cam: Corrected CAM (Eq. 11), >= 0, not normalised.
        scores: Background and class scores per pixel, after pixel refinement.
        pseudo_mask: Class ids: 0 = background, 1 + class index, 255 = undecided.
    """

    present: Int[Tensor, "batch slots"]
    initial: InitialCam
    regions: Int[Tensor, "batch region_h region_w"] | None
    target: Bool[Tensor, "batch slots patches"] | None
    affinity: Float[Tensor, "batch patches patches"] | None
    refined_cam: Float[Tensor, "batch slots grid_h grid_w"]
    scores: Float[Tensor, "batch channels height width"]
    pseudo_mask: UInt8[Tensor, "batch height width"]


@dataclass(frozen=True)
class PhotoSegments:
    """What the decoder finds in one photograph, at its own size, on the CPU.

    Attributes:
        pseudo_mask: Class ids.
        confidence: The decoder's probability of the chosen class, before a DenseCRF, in [0, 1].
        review: By the decoder's probabilities, before a DenseCRF.
    """

    pseudo_mask: UInt8[Tensor, "height width"]
    confidence: Float[Tensor, "height width"]
    review: Review


class SSR(nn.Module, Loadable):
    """Semantic and Spatial Rectification.

    Build one with ``from_encoders`` (training-free) or ``from_pretrained`` (trained). Any
    number of threads may use one object, as long as none trains it.

    Attributes:
        config: All settings.
        clip: Frozen CLIP.
        dino: Frozen DINO; None where its weight is 0.
        vocabulary: Class names, and the prompts of CLIP's text tower.
        text_features: T, unit norm, the classes first, then the backgrounds.
        alignment: CMPA's heads ISA and TSA with τ; None = CLIP's own features.
        decoder: The segmentation model; None before training.
        origin: The checkpoint that it was loaded from, without tensors; None = built here.
    """

    text_features: Float[Tensor, "words dim1"]

    def __init__(
        self,
        config: Config,
        clip: FrozenCLIP,
        dino: FrozenDINO | None,
        vocabulary: Vocabulary,
        *,
        alignment: Alignment | None = None,
        decoder: Decoder | None = None,
        text_features: Float[Tensor, "words dim1"] | None = None,
        origin: Checkpoint | None = None,
    ) -> None:
        """Join the parts; they are shared, not copied.

        Args:
            text_features: T, if it is known; None = CLIP embeds the vocabulary's texts now.
            origin: The checkpoint that it was loaded from, without tensors.
        """
        super().__init__()
        self.config, self.vocabulary, self.origin = config, vocabulary, origin
        self.clip, self.dino = clip, dino
        if text_features is None:
            text_features = clip.text_features(vocabulary.texts)
        self.register_buffer("text_features", text_features, persistent=False)
        self.alignment, self.decoder = alignment, decoder
        self.eval()

    def train(self, mode: bool = True) -> SSR:
        """Always eval: ``losses.training_mode`` switches the part that a loss trains, meanwhile."""
        return super().train(False)

    # ---- Figure 2, step by step

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        present: Int[Tensor, "batch slots"],
        superpixels: Int[Tensor, "batch superpixel_h superpixel_w"] | None = None,
        *,
        photo: Float[Tensor, "batch 3 photo_h photo_w"] | None = None,
        valid: Bool[Tensor, "batch height width"] | None = None,
        n_superpixels: int | None = None,
        initial: InitialCam | None = None,
    ) -> Rectification:
        """Images and their classes to pseudo masks.

        Args:
            image: RGB in [0, 1], sides whole numbers of patches.
            present: Class ids, -1 = empty slot.
            superpixels: Eq. 7, ids at any resolution, -1 = padding; needed where
                ``wants_superpixels``.
            photo: The same images at the size that masks are wanted in; None = ``image``.
            valid: False = padding, which has no CAM and gets 255.
            n_superpixels: Larger than every superpixel id; if given, a GPU need not be waited for.
            initial: The initial CAM, if it has been computed already.

        Raises:
            ValueError: If superpixels are needed and not given.
        """
        # encode, initial CAM: (batch, slots, grid_h, grid_w)
        if initial is None:
            initial = self.initial_cam(self.encode(image), present, valid)
        # target regions: region of each pixel, then target patches (batch, slots, patches)
        regions = self.colour_regions(image, superpixels, n_superpixels)
        target = self.target_regions(initial.cam, regions)
        # affinity: (batch, patches, patches)
        affinity = self.affinity(image, initial)
        # refined CAM: (batch, slots, grid_h, grid_w)
        refined_cam = self.refined_cam(initial.cam, affinity, target)
        # pseudo mask: scores (batch, 1 + slots, height, width), then ids (batch, height, width)
        scores = self.mask_scores(refined_cam, present, image if photo is None else photo)
        pseudo_mask = self.pseudo_mask(scores, present, valid)
        return Rectification(
            present, initial, regions, target, affinity, refined_cam, scores, pseudo_mask
        )

    def rectify_batch(self, batch: PhotoBatch) -> Rectification:
        """Photographs of one size, masks at their (limited) size."""
        return self(
            batch.image,
            batch.present,
            batch.superpixels,
            photo=batch.small,
            n_superpixels=batch.n_superpixels,
        )

    def encode(
        self, image: Float[Tensor, "batch 3 height width"], *, attention: bool = True
    ) -> ClipFeatures:
        """CLIP's blocks 1 .. L-1, with the attention that the affinity will need.

        The patch features V come out of the last block, in ``initial_cam``. The decoder needs no
        ``attention``.
        """
        return self.clip.encode(self._clip_input(image), self.clip_layers if attention else ())

    def _clip_input(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """CLIP's own normalisation, or ImageNet's, as WeCLIP has it."""
        own = self.config.data.norm == "clip"
        return _normalise(image, self.clip.pixels if own else IMAGENET_PIXELS)

    def initial_cam(
        self,
        features: ClipFeatures,
        present: Int[Tensor, "batch slots"],
        valid: Bool[Tensor, "batch height width"] | None = None,
        *,
        with_clip: bool = False,
    ) -> InitialCam:
        """CAM of the present classes: CLIP's by ``cam.clip_readout``, or CMPA's by ``cam.readout``.

        Args:
            present: Class ids, -1 = empty slot.
            valid: False = padding, where the CAM is 0.
            with_clip: Compute CLIP's CAM too where CMPA's is read without it.

        Raises:
            ConfigError: If an image has a single class and there is no background text.
        """
        settings, grid = self.config.cam, features.grid
        if settings.mode != "centre" and self.n_classes == len(self.text_features):
            labels = {f"image {row + 1}": found for row, found in enumerate(_labels(present))}
            refuse_lone_texts(self.vocabulary, labels)
        # which texts compete: (batch, words)
        allowed = allowed_words(present, self.n_classes, len(self.text_features))
        # last block -> V: (batch, patches, dim1)
        trace = self.clip.trace_last_block(features)
        text, scale = self.text_features, self._clip_scale
        reading = _Reading(self.clip, features, trace, present, allowed, text, scale)
        heads = self.alignment if settings.mode == "cmpa" else None
        # CAMs: (batch, slots, grid_h, grid_w)
        clip_cam = None
        from_clip = heads is None or settings.readout == "combined"
        if with_clip or (from_clip and settings.mode != "centre"):
            clip_cam = self._clip_cam(reading)
        if settings.mode == "centre":
            cam = centre_prior(present, grid)
        elif heads is not None:
            cam = self._cmpa_cam(heads, reading)
        else:
            assert clip_cam is not None
            cam = clip_cam
        if valid is not None:
            # (batch, 1, grid_h, grid_w)
            inside = functional.adaptive_avg_pool2d(valid[:, None].float(), grid) >= 0.5
            cam = cam * inside
            clip_cam = None if clip_cam is None else clip_cam * inside
        attention = self.clip.attention(features, trace)
        return InitialCam(features, trace.patch_features, attention, clip_cam, cam)

    @torch.no_grad()
    def class_evidence(self, initial: InitialCam) -> Float[Tensor, "batch classes"]:
        """How much an image looks like each class to frozen CLIP, in [0, 1]; no label is used."""
        return class_evidence(
            initial.patch_features, self.text_features, self._clip_scale, self.n_classes
        )

    def _clip_cam(self, reading: _Reading) -> Float[Tensor, "batch slots grid_h grid_w"]:
        """CAM of frozen CLIP: GradCAM [CLIP-ES], ``patch`` or ``combined``."""
        readout = self.config.cam.clip_readout
        if readout == "gradcam":
            return reading.clip_gradcam
        patch = reading.patch(reading.trace.patch_features, reading.text, reading.scale)
        return patch if readout == "patch" else combined_cam(patch, reading.clip_gradcam)

    def _cmpa_cam(
        self, alignment: Alignment, reading: _Reading
    ) -> Float[Tensor, "batch slots grid_h grid_w"]:
        """CAM in the aligned space (Eq. 1): ``patch``, ``combined``, or GradCAM in two forms."""
        readout = self.config.cam.readout
        with torch.no_grad():
            text, scale = alignment.tsa(self.text_features), 1 / alignment.temperature
        # patch, combined: the probability of each class at every patch
        if readout in ("patch", "combined"):
            with torch.no_grad():
                aligned = alignment.isa(reading.trace.patch_features)  # V' (batch, patches, dim2)
            patch = reading.patch(aligned, text, scale)
            return patch if readout == "patch" else combined_cam(patch, reading.clip_gradcam)
        # gradcam of the aligned mean patch
        if self.config.cmpa.image_feature == "project_mean":
            return reading.gradcam(text, scale, alignment.isa)
        # or of the mean of aligned patches; ISA differs from patch to patch, so the closed form has
        # nothing to share between them
        clip, features = self.clip, reading.features
        return gradcam(
            lambda activations: alignment.isa(clip.last_block(features, activations)),
            clip.last_norm(features),
            lambda v: word_probability(v, text, scale, reading.allowed),
            reading.present,
            features.grid,
        )

    def colour_regions(
        self,
        image: Float[Tensor, "batch 3 height width"],
        superpixels: Int[Tensor, "batch superpixel_h superpixel_w"] | None,
        n_superpixels: int | None = None,
    ) -> Int[Tensor, "batch superpixel_h superpixel_w"] | None:
        """Regions R_k of Eq. 8 at the size of the superpixels; None where the settings need none.

        Raises:
            ValueError: If superpixels are needed and not given.
        """
        if not self.wants_superpixels:
            return None
        if superpixels is None:
            raise ValueError(f'affinity.mask = "{self.config.affinity.mask}" needs superpixels')
        at_size = functional.interpolate(image, superpixels.shape[1:], mode="bilinear")
        k = self.config.sgc.k_colour
        return colour_regions(at_size, superpixels, k, n_superpixels=n_superpixels)

    def target_regions(
        self,
        cam: Float[Tensor, "batch slots grid_h grid_w"],
        regions: Int[Tensor, "batch region_h region_w"] | None,
    ) -> Bool[Tensor, "batch slots patches"] | None:
        """Patches from which activation may spread: SGC's targets (Eq. 8), CLIP-ES's boxes, both.

        None = every patch.
        """
        sgc, target = self.config.sgc, None
        if regions is not None:
            target = target_patches(
                cam,
                regions,
                sgc.k_colour,
                high=sgc.high,
                min_ratio=sgc.min_ratio,
                ratio=sgc.ratio,
                per_class=sgc.per_class,
            )
        if self.config.affinity.mask not in ("box", "box_and_slic"):
            return target
        boxes = box_patches(cam, high=sgc.high)
        if target is None:
            return boxes
        both = boxes & target
        # where the two share no patch, SGC's target is better than an empty one
        return torch.where(both.any(-1, True), both, target)

    @torch.no_grad()
    def affinity(
        self, image: Float[Tensor, "batch 3 height width"], initial: InitialCam
    ) -> Float[Tensor, "batch patches patches"] | None:
        """A of Eq. 9 from CLIP's attention (in ``initial``) and DINO's; None = no propagation."""
        settings = self.config.affinity
        if settings.kind == "none" or settings.power == 0:
            return None
        # Ā of the encoders, or the kernel: (batch, patches, patches)
        if settings.kind == "kernel":
            attention = colour_position_kernel(image, initial.features.grid)
        else:
            attention = fuse_attention(
                self._clip_attention(initial) if settings.clip_weight else None,
                self._dino_attention(image, initial.features.grid)
                if settings.dino_weight
                else None,
                clip_weight=settings.clip_weight,
                dino_weight=settings.dino_weight,
            )
        # rows and columns brought to 1, symmetric
        affinity = balance(attention, rounds=settings.sinkhorn)
        if settings.cda_temperature is not None:
            affinity = class_distribution_affinity(
                affinity, initial.patch_features, self.text_features, settings.cda_temperature
            )
        return affinity

    def _clip_attention(self, initial: InitialCam) -> Float[Tensor, "batch patches patches"]:
        """Ā_clip; with WeCLIP's RFM, the blocks' attention selected and weighted by the decoder."""
        if not self._decoder_gates or self.decoder is None:
            return mean_attention(initial.attention)
        fused = self.decoder.fusion(initial.features.tokens)  # (batch, patches, width)
        blocks = torch.stack(initial.attention, 1)  # (batch, blocks, patches, patches)
        return decoder_gate(blocks, feature_affinity(fused))

    def _dino_attention(
        self, image: Float[Tensor, "batch 3 height width"], grid: tuple[int, int]
    ) -> Float[Tensor, "batch patches patches"]:
        """Ā_dino, or the likeness of DINO's features, on CLIP's grid."""
        if self.dino is None:
            raise ConfigError(
                "affinity.dino_weight is above 0, but this model was built without DINO. Build it"
                " with settings that use DINO, or set affinity.dino_weight=0."
            )
        pixels = _normalise(self._dino_input(image, grid), self.dino.pixels)
        settings = self.config.affinity
        if settings.dino_kind == "features":
            return feature_attention(self.dino.features(pixels), settings.dino_temperature)
        return self.dino.attention(pixels, settings.dino_layers)

    def _dino_input(
        self, image: Float[Tensor, "batch 3 height width"], grid: tuple[int, int]
    ) -> Float[Tensor, "batch 3 dino_h dino_w"]:
        """The image at the size at which DINO's patches are those of CLIP's grid."""
        assert self.dino is not None
        own, other = self.clip.patch_size, self.dino.patch_size
        rows, columns = grid
        seen = image[..., : rows * own, : columns * own]  # CLIP cuts off what is no whole patch
        if own == other:
            return seen
        size = (rows * other, columns * other)
        return functional.interpolate(seen, size, mode="bilinear", antialias=True)

    def refined_cam(
        self,
        cam: Float[Tensor, "batch slots grid_h grid_w"],
        affinity: Float[Tensor, "batch patches patches"] | None,
        target: Bool[Tensor, "batch slots patches"] | None,
    ) -> Float[Tensor, "batch slots grid_h grid_w"]:
        """CAM_refine = (Aᵖ ⊙ Mask)·CAM (Eq. 10-11), >= 0, not normalised."""
        power = 0 if affinity is None else self.config.affinity.power
        return corrected_cam(affinity, cam, target, power=power, axis=self.config.sgc.axis)

    def mask_scores(
        self,
        refined_cam: Float[Tensor, "batch slots grid_h grid_w"],
        present: Int[Tensor, "batch slots"],
        photo: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Background and class scores at the size of ``photo``, sharpened along its edges."""
        return mask_scores(refined_cam, present, photo, self.config.pseudo)

    def sharpen_scores(
        self,
        scores: Float[Tensor, "batch channels height width"],
        present: Int[Tensor, "batch slots"],
        photo: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """PAR or DenseCRF, as the settings say."""
        return sharpen_scores(scores, present, photo, self.config.pseudo)

    def pseudo_mask(
        self,
        scores: Float[Tensor, "batch channels height width"],
        present: Int[Tensor, "batch slots"],
        valid: Bool[Tensor, "batch height width"] | None = None,
    ) -> UInt8[Tensor, "batch height width"]:
        """Class ids of the best scores; 255 for padding and below ``pseudo.min_score``."""
        return class_ids(scores, present, valid=valid, min_score=self.config.pseudo.min_score)

    # ---- test time: CLIP and the decoder only

    @torch.no_grad()
    def probabilities(
        self, photo: UInt8[Tensor, "height width 3"]
    ) -> Float[Tensor, "channels height width"]:
        """The decoder's class probabilities at the photograph's size, background first.

        Logits of all test scales and of the mirror image are averaged [WeCLIP].

        Raises:
            CheckpointError: If there is no decoder.
        """
        return next(self._probabilities([photo]))

    def _probabilities(
        self, photos: Sequence[UInt8[Tensor, "height width 3"]]
    ) -> Iterator[Float[Tensor, "channels height width"]]:
        """The same of photographs of one size, which CLIP and the decoder see at once."""
        if self.decoder is None:
            raise CheckpointError(
                "This model has no trained decoder, so it cannot segment without labels. Train one"
                " (ssrseg.train), load one (SSR.from_pretrained), or use rectify(image, labels)."
            )
        test, patch = self.config.test, self.patch_size
        size = (photos[0].shape[0], photos[0].shape[1])
        logits = []
        for scale in test.scales:
            # resize -> (batch, 3, h, w), sides whole patches
            factor = test.long_side * scale / max(size)
            sides = tuple(max(patch, round(side * factor / patch) * patch) for side in size)
            seen = [to_unit(resize(photo, (sides[0], sides[1]), bicubic=False)) for photo in photos]
            logits.append(self.grid_logits(torch.stack(seen).to(self.device)))
        for row in range(len(photos)):  # maps of all at their own size would fill the caches
            yield _blended([each[row : row + 1] for each in logits], size)[0]

    @torch.no_grad()
    def scale_probabilities(
        self, images: Sequence[Float[Tensor, "batch 3 _ _"]], size: tuple[int, int]
    ) -> Float[Tensor, "batch channels height width"]:
        """Class probabilities at ``size`` of the same photographs at each test scale.

        Args:
            images: RGB in [0, 1], sides whole numbers of patches.
        """
        return _blended([self.grid_logits(image) for image in images], size)

    @torch.no_grad()
    def grid_logits(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels grid_h grid_w"]:
        """The decoder's logits, averaged with those of the mirror image if ``test.flip``.

        Args:
            image: RGB in [0, 1], sides whole numbers of patches.
        """
        assert self.decoder is not None
        flip = self.config.test.flip
        seen = torch.cat([image, image.flip(-1)]) if flip else image
        features = self.encode(seen, attention=False)
        logits: Tensor = self.decoder(features.tokens, features.grid)
        if flip:  # (2 batch, C + 1, grid), mirrored back
            images = image.shape[0]
            logits = (logits[:images] + logits[images:].flip(-1)) / 2
        return logits

    def segment_photo(
        self, photo: UInt8[Tensor, "height width 3"], *, crf: bool | None = None
    ) -> PhotoSegments:
        """Class ids and the probability of the chosen class, on the CPU.

        A photograph larger than ``data.max_side`` is segmented at that size and enlarged again.

        Raises:
            BackboneError: If CLIP gives numbers that are not finite.
        """
        return self.segment_photos([photo], crf=crf)[0]

    def segment_photos(
        self, photos: Sequence[UInt8[Tensor, "_ _ 3"]], *, crf: bool | None = None
    ) -> list[PhotoSegments]:
        """The same of several that are seen at one size: that of ``limited_size(.., test_side)``.

        Raises:
            BackboneError: If CLIP gives numbers that are not finite.
        """
        small = [limit_side(photo, self.test_side) for photo in photos]
        segments = []
        for photo, found in zip(photos, self._decoded(small, crf), strict=True):
            decoded, ids, confidence = _chosen(found)
            review = review_prediction(decoded, ids)
            segments.append(
                PhotoSegments(_enlarge(ids, photo), _enlarge(confidence, photo), review)
            )
        return segments

    def segment_tiles(
        self,
        image: LargeImage,
        tiling: Tiling,
        take_ids: Callable[[UInt8[np.ndarray, "rows width"]], None],
        take_confidence: Callable[[Float[np.ndarray, "rows width"]], None] | None = None,
        *,
        crf: bool | None = None,
    ) -> Review:
        """The same of an image tile by tile; probabilities are blended where tiles overlap.

        Args:
            take_ids: Gets rows of class ids, from top to bottom.
            take_confidence: Gets their confidence, in [0, 1].

        Raises:
            BackboneError: If CLIP gives numbers that are not finite.
            DataError: If the image cannot be read.
        """

        def scores(rows: Span, columns: Span) -> Float[Tensor, "channels rows columns"]:
            photo = image.window(rows, columns)
            found = next(self._decoded([limit_side(photo, self.test_side)], crf))
            size = (photo.shape[0], photo.shape[1])
            return functional.interpolate(found, size, mode="bilinear").flatten(0, 1)

        blocks = blended_blocks(tiling.rows, tiling.columns, scores)
        decoded, ids = paint(
            blocks,
            image.size,
            lambda block: _chosen(block.unflatten(0, (-1, self.n_classes + 1))),
            undecided_where_absent(image, take_ids),
            take_confidence,
        )
        return review_prediction(decoded, ids)

    def _decoded(
        self, photos: Sequence[UInt8[Tensor, "height width 3"]], crf: bool | None
    ) -> Iterator[Float[Tensor, "kinds channels height width"]]:
        """The decoder's probabilities, then those after the DenseCRF, if it is wanted."""
        test = self.config.test
        for photo, decoded in zip(photos, self._probabilities(photos), strict=True):
            found = decoded[None]
            if test.crf if crf is None else crf:
                refined = dense_crf(
                    photo, decoded.cpu(), *test.crf_parameters, iterations=test.crf_iterations
                )
                found = torch.stack([decoded, refined.to(decoded.device)])
            if not torch.isfinite(found).all():
                raise BackboneError(
                    f"{self.config.backbones.clip} and the decoder give probabilities that are nan"
                    " or infinite: weights of CLIP are damaged, or too large. Copy it again."
                )
            yield found

    # ---- public calls: photographs in, numpy arrays out

    def rectify(
        self, image: Any, labels: Sequence[Any] | str
    ) -> RectifiedImage | list[RectifiedImage]:
        """CAMs and mask of a photograph whose classes are known.

        Args:
            image: A path, a PIL image, or a numpy array or torch tensor, (H, W, 3) or (3, H, W),
                uint8 or float in [0, 1]. A list of them gives a list.
            labels: Names of the classes in it; for a list of images, a list of such lists.

        Raises:
            DataError: If it is not an image, or smaller than a patch.
            LabelsError: If a label is no class of this model, or there is none.
        """
        if isinstance(image, (list, tuple)):
            if not isinstance(labels, (list, tuple)) or len(labels) != len(image):
                several = isinstance(labels, (list, tuple))
                given = counted(len(labels), "list", "lists") if several else f"{labels!r}"
                raise LabelsError(
                    f"{len(image)} images need {len(image)} lists of labels, not {given}: labels ="
                    ' [["dog"], ["cat", "dog"]].'
                )
            return [self._rectify(*each) for each in zip(_not_empty(image), labels, strict=True)]
        return self._rectify(image, labels)

    def _rectify(self, image: Any, labels: Sequence[Any] | str) -> RectifiedImage:
        if not len(self.text_features):
            raise CheckpointError(
                "This model was loaded with segment_only=True, without texts and DINO. Load it"
                " without, to rectify images with labels."
            )
        ids = label_indices(labels, self.classes)
        with _fp32_with_gradients(self.device):
            photo, tiling = self._photo(image, self.config.data.max_side)
            if tiling is not None:
                found = self._rectify_tiles(photo, ids, tiling)
            else:
                found = self._rectify_photo(photo, ids)
        return replace(found, mask=self._undecided(image, found.mask))

    def _rectify_photo(
        self, photo: UInt8[Tensor, "height width 3"], ids: tuple[int, ...]
    ) -> RectifiedImage:
        # a batch of one, at the size that the settings allow
        small = limit_side(photo, self.config.data.max_side)
        superpixels = None
        if self.wants_superpixels:
            superpixels = SuperpixelCache.of(None, self.config.sgc)(small)
        one = [Photo(0, photo, small, superpixels)]
        found = self.rectify_batch(join_photos(one, [ids], self.patch_size, self.device))
        # every map at the photograph's own size
        names = [self.classes[index] for index in ids]
        cam, refined_cam = found.initial.cam[0], min_max(found.refined_cam[0])
        target = torch.ones_like(cam, dtype=torch.uint8)
        if found.target is not None:
            target = found.target[0].view_as(cam).byte()
        return RectifiedImage(
            photo.numpy(),
            self.classes,
            _enlarge(found.pseudo_mask[0], photo).numpy(),
            _enlarge(pixel_confidence(found.scores[0]), photo).numpy(),
            tuple(names),
            {name: _enlarge(cam[slot], photo).numpy() for slot, name in enumerate(names)},
            {name: _enlarge(target[slot], photo).bool().numpy() for slot, name in enumerate(names)},
            {name: _enlarge(refined_cam[slot], photo).numpy() for slot, name in enumerate(names)},
        )

    def _rectify_tiles(
        self, photo: UInt8[Tensor, "height width 3"], ids: tuple[int, ...], tiling: Tiling
    ) -> RectifiedImage:
        config, size, image = self.config, tiling.size, HeldImage(photo)
        unsharpened = self.with_config(replace(config, pseudo=PseudoConfig(refine="none")))
        side = config.data.max_side
        found = tiled_look(image, tiling, ids, side, lambda photos: unsharpened.looks(photos, ids))
        windows = Tiling.of(size, side, config.data.tile_overlap)
        blocks = blocks_of_cam(image, found.refined_cam, ids, windows, config.pseudo, self.device)
        mask, confidence = HeldRows(size, np.uint8), HeldRows(size, np.float32)
        choose = labelled_choice(ids, config.pseudo)
        paint(blocks, size, choose, mask.add, confidence.add)
        names = [self.classes[index] for index in ids]
        maps = [
            {name: _enlarge(each, photo).numpy() for name, each in zip(names, cams, strict=True)}
            for cams in (found.cam, found.refined_cam)
        ]
        everywhere = np.ones(size, bool)
        return RectifiedImage(
            photo.numpy(),
            self.classes,
            mask.values,
            confidence.values,
            tuple(names),
            maps[0],
            dict.fromkeys(names, everywhere),
            maps[1],
        )

    def looks(
        self, photos: Sequence[UInt8[Tensor, "height width 3"]], labels: tuple[int, ...]
    ) -> list[Look]:
        """CAMs and evidence of photographs of one size, such as tiles of one, with these labels.

        Raises:
            BackboneError: If the CAMs are not finite.
        """
        settings, cells = self.config.data, SuperpixelCache.of(None, self.config.sgc)
        most = patches_at_once(settings, self.device)
        small = [limit_side(photo, settings.max_side) for photo in photos]
        grid = patch_grid((small[0].shape[0], small[0].shape[1]), self.patch_size)
        together = max(1, most // math.prod(grid))
        found = []
        for first in range(0, len(small), together):
            some = [
                Photo(
                    0,
                    photo,
                    photo,
                    cells(photo) if self.wants_superpixels else None,
                )
                for photo in small[first : first + together]
            ]
            every = [labels] * len(some)
            way = self.rectify_batch(join_photos(some, every, self.patch_size, self.device))
            self.refuse_not_finite(way)
            evidence = self.class_evidence(way.initial).cpu()
            n = len(labels)  # without labels there is an empty slot
            cams, refined = way.initial.cam[:, :n].cpu(), min_max(way.refined_cam[:, :n]).cpu()
            found += [Look(labels, *each) for each in zip(cams, refined, evidence, strict=True)]
        return found

    def refuse_not_finite(self, way: Rectification) -> None:
        """Raise BackboneError if a refined CAM is nan or infinite."""
        if not torch.isfinite(way.refined_cam).all():
            raise BackboneError(
                f"{self.config.backbones.clip} or {self.config.backbones.dino} gives CAMs that are"
                " nan or infinite: its weights are damaged, or too large. Copy it again, or choose"
                " another one."
            )

    def segment(
        self, image: Any, *, crf: bool | None = None
    ) -> SegmentedImage | list[SegmentedImage]:
        """Mask of a photograph whose classes are not known, by the trained decoder.

        Args:
            image: As for ``rectify``; a list gives a list.
            crf: Refine with a DenseCRF; None = as the settings say.

        Raises:
            CheckpointError: If there is no decoder.
            DataError: If it is not an image, or smaller than a patch.
        """
        if isinstance(image, (list, tuple)):
            return [self._segment(each, crf) for each in _not_empty(image)]
        return self._segment(image, crf)

    def _segment(self, image: Any, crf: bool | None) -> SegmentedImage:
        with _fp32_with_gradients(self.device):
            photo, tiling = self._photo(image, self.test_side)
            if tiling is not None:
                mask, sure = HeldRows(tiling.size, np.uint8), HeldRows(tiling.size, np.float32)
                self.segment_tiles(HeldImage(photo), tiling, mask.add, sure.add, crf=crf)
                ids, confidence = mask.values, sure.values
            else:
                found = self.segment_photo(photo, crf=crf)
                ids, confidence = found.pseudo_mask.numpy(), found.confidence.numpy()
        return SegmentedImage(photo.numpy(), self.classes, self._undecided(image, ids), confidence)

    def _undecided(
        self, image: Any, ids: UInt8[np.ndarray, "height width"]
    ) -> UInt8[np.ndarray, "height width"]:
        """A mask that is undecided where its photograph, if it is a file, has no data."""
        if not isinstance(image, str | os.PathLike):
            return ids
        path = user_path(image, "an image")
        return undecide_absent(torch.from_numpy(ids), path, self.config.data).numpy()

    def _photo(
        self, image: Any, long_side: int
    ) -> tuple[UInt8[Tensor, "height width 3"], Tiling | None]:
        """A photograph in memory, and how it is cut; None = the whole is seen at ``long_side``."""
        settings = self.config.data
        if isinstance(image, str | os.PathLike):
            path = user_path(image, "an image")
            if (tiling := tiling_of(path, settings, long_side)) is not None:
                with open_large(path, settings.range, settings.bands) as large:
                    return large.window((0, tiling.size[0]), (0, tiling.size[1])), tiling
        photo = as_photo(image, settings.range, settings.bands)
        if min(photo.shape[:2]) < self.patch_size:
            raise DataError(
                f"The image is {photo.shape[1]} x {photo.shape[0]} pixels, smaller than a patch"
                f" ({self.patch_size} x {self.patch_size}). Give a larger one."
            )
        if isinstance(image, str | os.PathLike):
            return photo, None
        size = (photo.shape[0], photo.shape[1])
        facts = header_of_pil(image) if isinstance(image, Image.Image) else None
        return photo, tiling_of_size(size, "the image", settings, long_side, facts)

    # ---- facts about the parts

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class ``classes[i]`` has id i + 1 in masks."""
        return self.vocabulary.classes

    @property
    def n_classes(self) -> int:
        """C, foreground classes."""
        return len(self.vocabulary.classes)

    @property
    def n_prototypes(self) -> int:
        """K, image prototypes: C, or C + M where background words have some."""
        with_words = self.config.cmpa.bg_prototypes != "none"
        return len(self.text_features) if with_words else self.n_classes

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.clip.patch_size

    @property
    def test_side(self) -> int:
        """Pixels of the longer side at which a photograph is segmented."""
        return max(self.config.data.max_side, self.config.test.long_side)

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        return self.text_features.device

    @property
    def wants_superpixels(self) -> bool:
        """Whether the settings need superpixels (Eq. 7)."""
        return self.config.affinity.mask in ("slic", "box_and_slic")

    @property
    def _clip_scale(self) -> float:
        """Inverse temperature of CLIP's own cosines."""
        return self.config.cam.scale or self.clip.logit_scale

    @property
    def _decoder_gates(self) -> bool:
        """Whether the decoder weighs CLIP's attention (WeCLIP's RFM)."""
        return self.decoder is not None and self.config.affinity.rfm_after is not None

    @property
    def clip_layers(self) -> int | tuple[int, ...]:
        """CLIP blocks whose attention ``encode`` collects; () = none."""
        wanted = self.config.affinity
        if wanted.kind != "attention" or not wanted.clip_weight:
            return ()
        return wanted.rfm_layers if self._decoder_gates else wanted.clip_layers


@dataclass(frozen=True)
class _Reading:
    """What every read-out of a batch's CAM needs; text and scale are CLIP's own."""

    clip: FrozenCLIP
    features: ClipFeatures
    trace: BlockTrace
    present: Int[Tensor, "batch slots"]
    allowed: Bool[Tensor, "batch words"]
    text: Float[Tensor, "words dim1"]
    scale: float

    @cached_property
    def clip_gradcam(self) -> Float[Tensor, "batch slots grid_h grid_w"]:
        """GradCAM of frozen CLIP."""
        return self.gradcam(self.text, self.scale)

    def gradcam(
        self,
        text: Float[Tensor, "words dim"],
        scale: float | Float[Tensor, ""],
        project: Callable[[Tensor], Tensor] = lambda v: v,
    ) -> Float[Tensor, "batch slots grid_h grid_w"]:
        """GradCAM of the projected mean patch, in closed form."""
        return gradcam_closed_form(
            self.clip.last_block_weights,
            self.trace,
            self.clip.last_norm(self.features),
            lambda v: word_probability(project(v), text, scale, self.allowed),
            self.present,
            self.features.grid,
        )

    @torch.no_grad()
    def patch(
        self,
        patch_features: Float[Tensor, "batch patches dim"],
        text: Float[Tensor, "words dim"],
        scale: float | Float[Tensor, ""],
    ) -> Float[Tensor, "batch slots grid_h grid_w"]:
        """The patches' own probabilities."""
        grid = self.features.grid
        return patch_cam(patch_features, text, scale, self.allowed, self.present, grid)


def _labels(present: Int[Tensor, "batch slots"]) -> list[list[int]]:
    return [[index for index in row if index >= 0] for row in present.tolist()]


@contextmanager
def _fp32_with_gradients(device: torch.device) -> Iterator[None]:
    """GradCAM needs gradients and fp32, whatever the caller has switched on around it."""
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        yield


def _not_empty(images: Sequence[Any]) -> Sequence[Any]:
    if not images:
        raise DataError("The list of images is empty. Give at least one image.")
    return images


def _blended(
    logits: Sequence[Float[Tensor, "batch channels _ _"]], size: tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    """Probabilities at ``size`` by the mean of the logits on several grids."""
    total: Tensor | float = 0.0
    for each in logits:
        total = total + functional.interpolate(each, size, mode="bilinear", align_corners=False)
    assert isinstance(total, Tensor)
    return (total / len(logits)).softmax(1)


def _chosen(
    found: Float[Tensor, "kinds channels height width"],
) -> tuple[
    Float[Tensor, "channels height width"],
    UInt8[Tensor, "height width"],
    Float[Tensor, "height width"],
]:
    """The decoder's probabilities, the ids that the last kind chooses, and the confidence in these.

    A DenseCRF is sure of everything: the decoder's own probability says more.
    """
    ids = found[-1].argmax(0)
    return found[0], ids.to(torch.uint8), found[0].gather(0, ids[None])[0]


def _normalise(
    image: Float[Tensor, "batch 3 height width"], pixels: PixelNorm
) -> Float[Tensor, "batch 3 height width"]:
    """RGB in [0, 1] less a mean, over a deviation, channel by channel."""
    # plain numbers: no constant tensor is copied to a GPU
    channels = [
        (image[:, channel] - mean) / deviation
        for channel, (mean, deviation) in enumerate(zip(*pixels.numbers, strict=True))
    ]
    return torch.stack(channels, 1)


def _enlarge(values: Tensor, photo: UInt8[Tensor, "height width 3"]) -> Tensor:
    """A map at the photograph's size, on the CPU: ids by nearest neighbour, the rest bilinear."""
    size = (photo.shape[0], photo.shape[1])
    larger = enlarged_ids if values.dtype == torch.uint8 else enlarged
    return larger(values, size).cpu()
