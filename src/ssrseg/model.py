"""Figure 2 as code: images and their classes -> CAM -> refined CAM -> pseudo mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ssrseg.config import Config
from ssrseg.console import note
from ssrseg.errors import BackboneError
from ssrseg.initial_cam import InitialCam, initial_cam
from ssrseg.method.affinity import (
    balance,
    colour_position_kernel,
    decoder_gate,
    feature_affinity,
    fuse_attention,
)
from ssrseg.method.class_distribution import class_distribution_affinity
from ssrseg.method.cmpa import Alignment
from ssrseg.method.par import pixel_adaptive_refinement
from ssrseg.method.pseudo_mask import class_ids, class_scores, crf_scores
from ssrseg.method.sgc import box_patches, corrected_cam, target_patches
from ssrseg.method.superpixels import colour_regions, connected_regions
from ssrseg.networks import clip as clip_tower
from ssrseg.networks import dino as dino_tower
from ssrseg.networks.clip import ClipView, FrozenCLIP
from ssrseg.networks.decoder import Decoder
from ssrseg.networks.dino import FrozenDINO
from ssrseg.networks.vocabulary import Vocabulary, build_vocabulary


@dataclass(frozen=True)
class Rectified:
    """A batch on its way through SGC.

    Attributes:
        present: Classes of each image, -1 = empty slot.
        initial: What CLIP saw.
        regions: Colour regions per pixel, -1 = padding; None without SGC's mask.
        target: Target patches of each class; None without a mask.
        refined_cam: Corrected CAM, >= 0, not normalised.
    """

    present: Int[Tensor, "batch slots"]
    initial: InitialCam
    regions: Int[Tensor, "batch height width"] | None
    target: Bool[Tensor, "batch slots patches"] | None
    refined_cam: Float[Tensor, "batch slots grid_h grid_w"]


class Rectifier:
    """The frozen encoders with a vocabulary: turns images and labels into pseudo masks."""

    def __init__(
        self,
        config: Config,
        clip: FrozenCLIP,
        dino: FrozenDINO | None,
        vocabulary: Vocabulary,
        alignment: Alignment | None = None,
    ) -> None:
        """Join the parts; :func:`load_rectifier` loads them.

        Args:
            config: All settings.
            clip: Frozen CLIP.
            dino: Frozen DINO; None where its weight is 0.
            vocabulary: Texts of the data set's classes.
            alignment: CMPA's heads, trained or in training; None = CLIP's own features.

        Raises:
            BackboneError: If the two encoders do not share a patch grid.
        """
        if dino is not None and dino.patch_size != clip.patch_size:
            raise BackboneError(
                f"backbones.clip has patches of {clip.patch_size} pixels and backbones.dino of"
                f" {dino.patch_size}. Their attention can only be fused on one grid: choose"
                " encoders of the same patch size, or --set affinity.dino_weight=0."
            )
        self.config, self.clip, self.dino = config, clip, dino
        self.vocabulary, self.alignment = vocabulary, alignment
        self.decoder: Decoder | None = None  # set where it is to weigh CLIP's attention
        self.text_features = clip.text_features(vocabulary.texts)
        self.n_classes = len(vocabulary.classes)

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        return self.text_features.device

    @property
    def wants_superpixels(self) -> bool:
        """Whether :meth:`rectify` needs superpixels."""
        return self.config.affinity.mask in ("slic", "box_and_slic")

    def see(self, image: Float[Tensor, "batch 3 height width"]) -> ClipView:
        """CLIP's blocks but the last, on RGB in [0, 1]."""
        tower = clip_tower if self.config.data.norm == "clip" else dino_tower
        pixels = _normalise(image, tower.PIXEL_MEAN, tower.PIXEL_STD)
        return self.clip.view(pixels, self.clip_layers)

    @property
    def clip_layers(self) -> int | tuple[int, ...]:
        """CLIP blocks whose attention :meth:`see` collects; () = none."""
        wanted = self.config.affinity
        if wanted.kind != "attention" or not wanted.clip_weight:
            return ()
        return wanted.clip_layers if self.decoder is None else wanted.rfm_layers

    def initial_cam(
        self,
        view: ClipView,
        present: Int[Tensor, "batch slots"],
        valid: Bool[Tensor, "batch height width"] | None = None,
        *,
        with_clip: bool = False,
    ) -> InitialCam:
        """CAM of the present classes, in CLIP's or in CMPA's space (spec §5, §6.6).

        Args:
            view: From :meth:`see`.
            present: Class ids, -1 = empty slot.
            valid: False = padding, where the CAM is 0.
            with_clip: Compute CLIP's CAM even where the settings ask for CMPA's only.
        """
        return initial_cam(
            view,
            present,
            self.clip,
            self.text_features,
            self.config,
            self.alignment,
            n_classes=self.n_classes,
            valid=valid,
            with_clip=with_clip,
        )

    @torch.no_grad()
    def affinity(
        self, image: Float[Tensor, "batch 3 height width"], view: ClipView
    ) -> Float[Tensor, "batch patches patches"]:
        """Balanced affinity of the settings (Eq. 9); call after :meth:`initial_cam`."""
        settings = self.config.affinity
        if settings.kind == "kernel":
            attention = colour_position_kernel(image, view.grid)
        else:
            clip_attention = self._clip_attention(view) if settings.clip_weight else None
            dino_attention = None
            if settings.dino_weight:
                assert self.dino is not None
                pixels = _normalise(image, dino_tower.PIXEL_MEAN, dino_tower.PIXEL_STD)
                dino_attention = self.dino.attention(pixels, settings.dino_layers)
            attention = fuse_attention(
                clip_attention,
                dino_attention,
                clip_weight=settings.clip_weight,
                dino_weight=settings.dino_weight,
            )
        return balance(attention, rounds=settings.sinkhorn)

    def _clip_attention(self, view: ClipView) -> Float[Tensor, "batch patches patches"]:
        """Ā_clip, or what the decoder makes of the blocks' attention (WeCLIP's RFM)."""
        if self.decoder is None:
            return self.clip.attention(view)
        was_training = self.decoder.training
        fused = self.decoder.eval().fusion(view.tokens)
        self.decoder.train(was_training)
        blocks = torch.stack([found for found in view.attention.values() if found is not None], 1)
        return decoder_gate(blocks, feature_affinity(fused))

    def regions(
        self,
        image: Float[Tensor, "batch 3 height width"],
        superpixels: Int[Tensor, "batch superpixel_h superpixel_w"] | None,
        n_superpixels: int | None = None,
    ) -> Int[Tensor, "batch superpixel_h superpixel_w"]:
        """Colour regions of Eq. 8 at the size of the superpixels, connected if the settings ask."""
        if superpixels is None:
            raise ValueError(f'affinity.mask = "{self.config.affinity.mask}" needs superpixels')
        at_size = functional.interpolate(image, superpixels.shape[1:], mode="bilinear")
        regions = colour_regions(
            at_size, superpixels, self.config.sgc.k_colour, n_superpixels=n_superpixels
        )
        if not self.config.sgc.connected:
            return regions
        return connected_regions(regions, superpixels, n_superpixels=n_superpixels)

    def rectify(
        self,
        image: Float[Tensor, "batch 3 height width"],
        present: Int[Tensor, "batch slots"],
        superpixels: Int[Tensor, "batch superpixel_h superpixel_w"] | None = None,
        valid: Bool[Tensor, "batch height width"] | None = None,
        initial: InitialCam | None = None,
        regions: Int[Tensor, "batch superpixel_h superpixel_w"] | None = None,
        n_superpixels: int | None = None,
        affinity: Float[Tensor, "batch patches patches"] | None = None,
    ) -> Rectified:
        """Initial CAM, target regions, affinity, corrected CAM.

        Args:
            image: RGB in [0, 1], sides whole numbers of patches.
            present: Class ids, -1 = empty slot.
            superpixels: Ids per pixel of the image, at any resolution, -1 = padding. Needed by
                masks ``slic`` and ``box_and_slic``.
            valid: False = padding.
            initial: If it has been computed already.
            regions: Colour regions, if they have been computed already.
            n_superpixels: A bound above every superpixel id, which spares a GPU a question.
            affinity: If it has been computed already.

        Raises:
            ValueError: If superpixels are needed and not given.
        """
        settings, sgc = self.config.affinity, self.config.sgc
        initial = initial or self.initial_cam(self.see(image), present, valid)
        target = None
        if self.wants_superpixels:
            if regions is None:
                regions = self.regions(image, superpixels, n_superpixels)
            target = target_patches(
                initial.cam,
                regions,
                (n_superpixels or int(regions.max()) + 1) if sgc.connected else sgc.k_colour,
                high=sgc.high,
                min_ratio=sgc.min_ratio,
                ratio=sgc.ratio,
                per_class=sgc.per_class,
            )
        if settings.mask in ("box", "box_and_slic"):
            boxes = box_patches(initial.cam, high=sgc.high)
            both = boxes if target is None else boxes & target
            # where the two share no patch, SGC's target is better than an empty one
            target = both if target is None else torch.where(both.any(-1, True), both, target)
        if settings.kind == "none" or settings.power == 0:
            refined = corrected_cam(None, initial.cam, target, power=0, axis=sgc.axis)
        else:
            affinity = self.affinity(image, initial.view) if affinity is None else affinity
            if settings.cda_temperature is not None:
                affinity = class_distribution_affinity(
                    affinity, initial.patch_features, self.text_features, settings.cda_temperature
                )
            power, axis = settings.power, sgc.axis
            refined = corrected_cam(affinity, initial.cam, target, power=power, axis=axis)
        return Rectified(present, initial, regions, target, refined)

    @torch.no_grad()
    def pseudo_mask(
        self,
        rectified: Rectified,
        photo: Float[Tensor, "batch 3 height width"],
        valid: Bool[Tensor, "batch height width"] | None = None,
    ) -> UInt8[Tensor, "batch height width"]:
        """Class ids at the size of ``photo`` (spec §8).

        Args:
            rectified: From :meth:`rectify`.
            photo: RGB in [0, 1] at the size of the mask.
            valid: False = padding, which becomes 255.
        """
        settings = self.config.pseudo
        size = (photo.shape[2], photo.shape[3])
        maps = class_scores(rectified.refined_cam, size, alpha=settings.alpha)
        maps = self.refine_scores(maps, photo, rectified.present)
        return class_ids(maps, rectified.present, valid=valid, min_score=settings.min_score)

    @torch.no_grad()
    def refine_scores(
        self,
        maps: Float[Tensor, "batch channels height width"],
        photo: Float[Tensor, "batch 3 height width"],
        present: Int[Tensor, "batch slots"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Background and class scores brought to the photograph's edges, by PAR or DenseCRF."""
        settings = self.config.pseudo
        if settings.refine == "par" and settings.par_iterations:
            rounds, dilations = settings.par_iterations, settings.par_dilations
            return pixel_adaptive_refinement(photo, maps, iterations=rounds, dilations=dilations)
        if settings.refine == "crf":
            return crf_scores(maps, photo, present, settings.crf)
        return maps


def load_rectifier(
    config: Config,
    classes: tuple[str, ...],
    *,
    own_prompts: Mapping[str, str] | None = None,
    alignment: Alignment | None = None,
    device: str = "cpu",
) -> Rectifier:
    """Load the encoders of the settings and embed the prompts.

    Args:
        config: All settings.
        classes: Class names of the data.
        own_prompts: Prompts that come with the data.
        alignment: CMPA's heads, if there are.
        device: ``cpu`` or ``cuda``.

    Raises:
        BackboneError: If an encoder cannot be loaded.
        ConfigError: If the prompt set cannot be read or the layers do not fit.
    """
    backbones = config.backbones
    vocabulary = build_vocabulary(classes, config.prompts.set, own_prompts)
    if vocabulary.dropped:
        pairs = zip(vocabulary.dropped, vocabulary.dropped_for, strict=True)
        left_out = ", ".join(f'"{word}" (class "{name}")' for word, name in pairs)
        note(f"background words left out because they mean a class: {left_out}.")
    clip = FrozenCLIP.load(
        backbones.clip,
        pos_interpolation=backbones.pos_interpolation,
        precision=backbones.precision,
        texts=vocabulary.texts,
    )
    wanted = config.affinity.kind == "attention" and config.affinity.dino_weight > 0
    dino = FrozenDINO.load(backbones.dino, precision=backbones.precision) if wanted else None
    return Rectifier(
        config,
        clip.to(device),
        None if dino is None else dino.to(device),
        vocabulary,
        None if alignment is None else alignment.to(device),
    )


def _normalise(
    image: Float[Tensor, "batch 3 height width"],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
) -> Float[Tensor, "batch 3 height width"]:
    normalised = torch.empty_like(image)  # channel by channel: a GPU is sent no constants
    for channel in range(3):
        torch.sub(image[:, channel], mean[channel], out=normalised[:, channel])
        normalised[:, channel] /= deviation[channel]
    return normalised
