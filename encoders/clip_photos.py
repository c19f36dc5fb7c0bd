"""A CLIP that knows photographs: a small ViT on Lite0's frozen blocks, and a text tower for names.

Every reading of the image tower is taught what a place shows: the patches V, the mean of which is
the image feature v; and U, the values of the last block without its attention (MaskCLIP's reading),
along which GradCAM's gradient goes. Two vocabularies are asked of them:

* ImageNet's names, softmax: Lite0's own classifier is the teacher. Vectors of patches and of names
  also follow its features and its rows, and parts of views are imagined to show random names, so
  that names that no photograph shows are learned, too;
* tags, backgrounds and kinds of names, one sigmoid each: the teacher of tags, corrected by what is
  known of the photograph.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel

from encoders.clip import clip_config
from encoders.dino import sincos_positions
from encoders.lite0 import PIXEL_MEAN, PIXEL_STD
from encoders.objective import Objective, Recipe
from encoders.photo_gate import tag_precision
from encoders.photos import (
    GRID,
    MID,
    TOP,
    Features,
    Photo,
    StemViews,
    fingerprint,
    fold_stem,
    join,
    places,
    sampling_weights,
)
from encoders.teachers import NameLesson, NameTeacher, TagTeacher, tag_truth
from encoders.words import (
    KINDS,
    MEMBERS,
    NAMES,
    TAGS,
    TEMPLATES,
    build_word_tokenizer,
    known_names,
    known_words,
)
from ssrseg.data.files import write_text
from ssrseg.networks.clip import FrozenCLIP
from ssrseg.networks.vocabulary import NAMES_FILE

LONGEST = 24
"""Tokens of a text."""

RIDGE = 1e-4
"""Of the map from channels to the teacher's features, as a share of a channel's variance."""

SURE = 3.0
"""Logit that the best place of a photograph gets for a tag that is known to be there."""


@dataclass(frozen=True, kw_only=True)
class PhotoClipRecipe(Recipe):
    """Recipe of the photo CLIP."""

    log_every = 250
    views: int = 48_000
    batch: int = 32
    width: int = 192
    depth: int = 3
    heads: int = 6
    patch: int = 16
    grid: int = 24
    lr: float = 5e-4
    warmup: int = 60
    text_width: int = 72
    text_depth: int = 2
    text_steps: int = 300
    """Steps in which the text tower learns the names, before everything else."""
    dim: int = 128
    kept: int = 6
    """Views of each photograph whose features are kept."""
    window: int = 14
    """Side of the part of a view that is seen, in patches; whole views at the end."""
    whole_share: float = 0.15
    """Share of the steps, at the end, that see whole views."""
    names: tuple[int, int] = (200, 100)
    """Names asked at a step: those that the teacher sees most, and random ones."""
    sigmoid: float = 20.0
    """Weight of the sigmoid losses beside the softmax losses."""
    likeness: float = 8.0
    """Weight of the likeness to the teacher's vectors beside the softmax losses."""


class Lesson(NamedTuple):
    """What is taught of a batch of windows; a place, at stride 32, is 2 x 2 patches.

    All are probabilities. Words are the tags, then the kinds.

    Attributes:
        names: Of the names asked; sums to 1.
        name_places: The same at each place, but that of the other names is missing in the sum.
        known: 1 where ``tags`` counts, 0 where nobody looked for the word.
    """

    names: Float[Tensor, "windows names"]
    name_places: Float[Tensor, "windows places names"]
    tags: Float[Tensor, "windows words"]
    known: Float[Tensor, "windows words"]
    tag_patches: Float[Tensor, "windows patches tags"]
    kind_places: Float[Tensor, "windows places kinds"]


def window_lesson(
    whole: Float[Tensor, "windows names"],
    each: Float[Tensor, "windows places names"],
    scores: Float[Tensor, "windows view_patches tags"],
    inside: Bool[Tensor, " view_patches"],
    present: Float[Tensor, "windows tags"],
    known: Float[Tensor, "windows tags"],
    asked: Int[Tensor, " names_asked"],
) -> Lesson:
    """Correct the teachers by what is known of the photographs.

    A tag that is known to be absent is nowhere. One that is known to be present is raised, at all
    patches of the view alike, until the best has ``SURE``; a window without that one may lack it.

    Args:
        whole: Probabilities of all names in the window.
        each: The same at its places.
        scores: Logits of the tags at every patch of the view, row-major.
        inside: Which of these patches the window shows.
        present: 1 where the photograph is tagged so.
        known: 1 where somebody looked for the tag.
        asked: Numbers of the names that are asked.
    """
    there = present * known
    lacking = functional.relu(SURE - scores.amax(1)) * there
    seen = (scores + lacking[:, None])[:, inside]
    absent = known * (1 - present)
    tags = torch.cat([there * seen.amax(1).sigmoid(), whole @ MEMBERS], 1)
    kinds = torch.ones(len(whole), len(KINDS))
    names = whole[:, asked]
    return Lesson(
        names / names.sum(1, keepdim=True),
        each[:, :, asked],
        tags,
        torch.cat([known, kinds], 1),
        seen.sigmoid() * (1 - absent)[:, None],
        each @ MEMBERS,
    )


class ImageTower(NamedTuple):
    """Three readings of the tower, not normalised."""

    v: Float[Tensor, "windows dim"]
    patches: Float[Tensor, "windows patches dim"]
    values: Float[Tensor, "windows patches dim"]


def before_last_block(
    model: CLIPModel,
    channels: Float[Tensor, "windows channels side side"],
    where: Int[Tensor, "windows patches"],
) -> Float[Tensor, "windows tokens width"]:
    """All blocks but the last, for windows of whitened channels; CLS first.

    The library's own forward only knows whole pictures.

    Args:
        where: Places of the patches in the model's grid.
    """
    vision = model.vision_model
    embedded = vision.embeddings.patch_embedding(channels).flatten(2).mT
    rows = vision.embeddings.position_embedding.weight
    cls = (vision.embeddings.class_embedding + rows[0]).expand(len(channels), 1, -1)
    hidden = vision.pre_layrnorm(torch.cat([cls, embedded + rows[1:][where]], 1))
    for block in vision.encoder.layers[:-1]:
        hidden = block(hidden, None)
    return hidden


def encode_stem(
    model: CLIPModel,
    channels: Float[Tensor, "windows channels side side"],
    where: Int[Tensor, "windows patches"],
) -> ImageTower:
    """All three readings of windows; arguments as for ``before_last_block``."""
    hidden, vision = before_last_block(model, channels, where), model.vision_model
    last = vision.encoder.layers[-1]
    values = last.self_attn.v_proj(last.layer_norm1(hidden)[:, 1:])
    readings = last(hidden, None)[:, 1:], last.self_attn.out_proj(values)
    patches, values = (
        model.visual_projection(vision.post_layernorm(each)).float() for each in readings
    )
    return ImageTower(patches.mean(1), patches, values)


@torch.no_grad()
def centre_last_norm(model: CLIPModel, mean: Float[Tensor, " width"]) -> None:
    """Take ``mean`` from the output of the last block's first norm; what the model says is kept.

    GradCAM weighs that output and knows no bias: what all patches share would make it dark, or
    bright, all over. The biases behind it make up for the change.
    """
    last = model.vision_model.encoder.layers[-1]
    last.layer_norm1.bias -= mean
    for part in (last.self_attn.q_proj, last.self_attn.k_proj, last.self_attn.v_proj):
        part.bias += part.weight @ mean


def lesson_losses(
    tower: ImageTower,
    lesson: Lesson,
    texts: Float[Tensor, "texts dim"],
    scale: Tensor,
    bias: Float[Tensor, " 3"],
) -> dict[str, Tensor]:
    """Losses of a batch, by name.

    Args:
        texts: Unit-norm features: names asked, tags, kinds.
        scale: exp(logit_scale).
        bias: Of the sigmoids: of v, of patches, of values. Not part of the model.
    """
    asked, count = lesson.names.shape[1], len(TAGS)
    names, words = texts[:asked], texts[asked:]
    v, patches, values = (functional.normalize(each, dim=-1) for each in tower)
    coarse = [at_stride_32(each) for each in tower[1:]]
    softmax = cross_entropy(scale * v @ names.T, lesson.names) + sum(
        cross_entropy(scale * each @ names.T, lesson.name_places) for each in coarse
    )
    whole = scale * v @ words.T + bias[0]
    tags = masked_bce(whole, lesson.tags, lesson.known)
    fine = [
        scale * each @ words.T + offset
        for each, offset in zip((patches, values), bias[1:], strict=True)
    ]
    places = sum(bce(each[:, :, :count], lesson.tag_patches) for each in fine)
    kinds = sum(
        bce(scale * each @ words[count:].T + offset, lesson.kind_places)
        for each, offset in zip(coarse, bias[1:], strict=True)
    )
    # the patches that a word points at (MIL)
    pointed = (fine[0].detach().softmax(1) * fine[0]).sum(1)
    return {
        "names": softmax,
        "tags": tags,
        "places": places,
        "kinds": kinds,
        "pointed": masked_bce(pointed, lesson.tags, lesson.known),
    }


def at_stride_32(
    patches: Float[Tensor, "windows patches dim"],
) -> Float[Tensor, "windows places dim"]:
    """Unit vectors of 2 x 2 patches each: that is where the teacher of names speaks."""
    side = math.isqrt(patches.shape[1])
    means = functional.avg_pool2d(patches.mT.unflatten(2, (side, side)), 2)
    return functional.normalize(means.flatten(2).mT, dim=-1)


def likeness_losses(
    tower: ImageTower,
    said: NameLesson,
    texts: Float[Tensor, "names dim"],
    targets: Float[Tensor, "names dim"],
) -> dict[str, Tensor]:
    """1 - cosine with the teacher's features, of the three readings; with its vectors of names.

    Args:
        texts: Unit-norm features of the names asked.
        targets: The teacher's, unit norm.
    """
    pairs = (
        (functional.normalize(tower.v, dim=-1), said.whole_feature),
        *((at_stride_32(each), said.place_features) for each in tower[1:]),
    )
    unlike = [
        1 - functional.cosine_similarity(ours, theirs, dim=-1).mean() for ours, theirs in pairs
    ]
    return {
        "features": torch.stack(unlike).sum(),
        "texts": 1 - (texts * targets).sum(1).mean(),
    }


def cross_entropy(logits: Float[Tensor, "*n names"], target: Float[Tensor, "*n names"]) -> Tensor:
    """Mean over all but the last axis; a target that sums to less than 1 counts less."""
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean."""
    return functional.binary_cross_entropy_with_logits(logits, target)


def masked_bce(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy, mean over what is known."""
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * known).sum() / known.sum()


class PhotoClipObjective(Objective):
    """What the module's docstring says."""

    folder, processor, mean, std = "clip", "CLIPImageProcessor", PIXEL_MEAN, PIXEL_STD
    fused = True

    def __init__(
        self,
        recipe: PhotoClipRecipe,
        photos: Sequence[Photo],
        held_out: Sequence[Photo],
        cache: Path,
    ) -> None:
        """Keep features of views in ``cache``, and teach the teacher of tags."""
        self.recipe, self.pictures = recipe, fingerprint(photos)
        self._held_out = held_out
        self._views = StemViews(cache, photos, recipe.kept, recipe.seed)
        self._weights = sampling_weights(photos)
        self._present, self._known = tag_truth(photos)
        places = self._views.some(recipe.seed).top.permute(0, 2, 3, 1).flatten(0, 2)
        self._name_teacher = NameTeacher(recipe.dim, places)
        self._tag_teacher = TagTeacher(self._views, recipe.seed)
        self.tokenizer = build_word_tokenizer(known_words(), LONGEST)

    def build_model(self) -> nn.ModuleDict:
        """A CLIP whose text tower has learned the teacher's names, and the sigmoids' biases."""
        clip = self._new_clip()
        self._teach_texts(clip)
        bias = nn.ParameterList([nn.Parameter(torch.full((3,), -6.0))])
        return nn.ModuleDict({"clip": clip, "bias": bias})

    def _new_clip(self) -> CLIPModel:
        """A CLIP on whitened channels of the stem that begins as Lite0.

        A linear map of the channels carries the teacher's features through all blocks, which begin
        near the identity, to all three readings. What images show outside the few thousand
        photographs is kept by that, and by the vectors of names, more than learned.
        """
        recipe = self.recipe
        clip = CLIPModel(clip_config(recipe, self.tokenizer))
        # plain attention: the fused kernel's backward pass is many times slower in bf16 on a CPU
        clip.set_attn_implementation("eager")
        vision, channels = clip.vision_model, MID + TOP
        vision.embeddings.patch_embedding = nn.Conv2d(channels, recipe.width, 1)
        nn.init.normal_(vision.embeddings.patch_embedding.weight, std=channels**-0.5)
        nn.init.zeros_(vision.embeddings.patch_embedding.bias)
        with torch.no_grad():
            table = vision.embeddings.position_embedding.weight
            table.copy_(sincos_positions(recipe.grid, recipe.width, scale=0.2)[0])
            for block in vision.encoder.layers:
                for layer in (block.self_attn.out_proj, block.mlp.fc2):
                    layer.weight.mul_(0.1)
            weight, bias = self._read_teacher()
            vision.embeddings.patch_embedding.weight[: recipe.dim] = weight[:, :, None, None]
            vision.embeddings.patch_embedding.bias[: recipe.dim] = bias
            torch.nn.init.eye_(clip.visual_projection.weight)
            values = vision.encoder.layers[-1].self_attn
            torch.nn.init.eye_(values.v_proj.weight)
            torch.nn.init.eye_(values.out_proj.weight).mul_(0.3)
            clip.logit_scale.fill_(math.log(20.0))
        return clip

    def _read_teacher(self) -> tuple[Float[Tensor, "dim channels"], Float[Tensor, " dim"]]:
        """Weight and bias of least squares from channels to the teacher's features, of size 1."""
        some = self._views.some(self.recipe.seed)
        channels = functional.avg_pool2d(self._tag_teacher.whiten(join(some)), 2)
        inputs = functional.pad(channels.flatten(2).mT.flatten(0, 1), (0, 1), value=1.0)
        wanted = self._name_teacher(some.top).place_features.flatten(0, 1)
        wanted = wanted / wanted.square().mean().sqrt()
        gram = inputs.T @ inputs + RIDGE * len(inputs) * torch.eye(inputs.shape[1])
        found = torch.linalg.solve(gram, inputs.T @ wanted).T
        return found[:, :-1], found[:, -1]

    def _teach_texts(self, clip: CLIPModel) -> None:
        """Let the text tower give the teacher's vector of every name in every template."""
        rng, targets = np.random.default_rng(self.recipe.seed), self._name_teacher.texts
        parts = [*clip.text_model.parameters(), *clip.text_projection.parameters()]
        optimizer = torch.optim.AdamW(parts, lr=1e-3, fused=True)
        for _ in range(self.recipe.text_steps):
            chosen = rng.choice(len(NAMES), len(NAMES) // 2, replace=False)
            template = TEMPLATES[rng.integers(len(TEMPLATES))]
            words = self.tokenizer(
                [template.format(NAMES[k]) for k in chosen], padding=True, return_tensors="pt"
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
                texts = clip.text_projection(clip.text_model(**words).pooler_output)
            loss = 1 - functional.cosine_similarity(texts.float(), targets[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def losses(self, model: nn.ModuleDict, average: nn.ModuleDict, step: int) -> dict[str, Tensor]:
        """Losses of one window of each of some photographs, at one place of their views."""
        recipe, rng = self.recipe, np.random.default_rng([self.recipe.seed, step])
        index = rng.choice(len(self._weights), recipe.batch, replace=False, p=self._weights)
        views = rng.integers(recipe.kept, size=recipe.batch), index
        features = self._views[views]
        whole = step >= (1 - recipe.whole_share) * recipe.steps
        side = GRID if whole else recipe.window
        row, column = 2 * rng.integers(0, (GRID - side) // 2 + 1, size=2)
        down, across = slice(row, row + side), slice(column, column + side)
        features = self._imagine(features, rng)
        channels = self._tag_teacher.whiten(join(features))
        # what the teachers say of the window, and which names are asked
        top = features.top[:, :, row // 2 : (row + side) // 2, column // 2 : (column + side) // 2]
        said = self._name_teacher(top)
        most, random = recipe.names
        asked = torch.cat(
            [
                said.whole.sum(0).topk(most).indices,
                torch.from_numpy(rng.integers(len(NAMES), size=random)),
            ]
        ).unique()
        inside = torch.zeros(GRID, GRID, dtype=torch.bool)
        inside[down, across] = True
        lesson = window_lesson(
            said.whole,
            said.places,
            self._tag_teacher.scores(channels),
            inside.flatten(),
            self._present[index],
            self._known[index],
            asked,
        )
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        synonyms = [
            words[rng.integers(len(words)) if rng.random() < 0.6 else 0] for words in TAGS.values()
        ]
        texts = [template.format(word) for word in (*(NAMES[k] for k in asked), *synonyms, *KINDS)]
        where = places(features.boxes, GRID, recipe.grid)[:, down, across].flatten(1)
        clip = model["clip"]
        words = self.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            tower = encode_stem(clip, self._seen(views, channels, down, across), where)
            encoded = clip.text_projection(clip.text_model(**words).pooler_output)
        encoded = functional.normalize(encoded.float(), dim=-1)
        terms = lesson_losses(tower, lesson, encoded, clip.logit_scale.exp(), model["bias"][0])
        sigmoids = terms["tags"] + terms["places"] + terms["kinds"] + 0.5 * terms["pointed"]
        likeness = likeness_losses(
            tower, said, encoded[: len(asked)], self._name_teacher.texts[asked]
        )
        alike = torch.stack([*likeness.values()]).sum()
        loss = terms["names"] + recipe.sigmoid * sigmoids + recipe.likeness * alike
        return {"loss": loss, **terms, **likeness}

    def _imagine(self, features: Features, rng: np.random.Generator) -> Features:
        return features._replace(top=self._name_teacher.imagine(features.top, rng))

    def _seen(
        self,
        views: tuple[Int[np.ndarray, " windows"], Int[np.ndarray, " windows"]],
        channels: Float[Tensor, "windows channels grid grid"],
        down: slice,
        across: slice,
    ) -> Float[Tensor, "windows channels side side"]:
        """What the patch embedding is given of windows."""
        return channels[:, :, down, across]

    def momentum(self, step: int) -> float:
        """At most 0.995."""
        return min(0.995, (1 + step) / (10 + step))

    def constrain(self, model: nn.ModuleDict) -> None:
        """At most 100 times the cosine, as in CLIP."""
        model["clip"].logit_scale.clamp_(max=math.log(100))

    def export(self, model: nn.ModuleDict, folder: Path) -> None:
        """Write model, tokenizer and names; the stem becomes its patch embedding."""
        clip = copy.deepcopy(model["clip"])
        chosen = self._views.chosen(self.recipe.seed)
        some = self._views[chosen]
        where = places(some.boxes, GRID, self.recipe.grid).flatten(1)
        seen = self._seen(chosen, self._tag_teacher.whiten(join(some)), slice(GRID), slice(GRID))
        with torch.no_grad():
            hidden = before_last_block(clip, seen, where)[:, 1:]
            normed = clip.vision_model.encoder.layers[-1].layer_norm1(hidden)
        centre_last_norm(clip, normed.mean((0, 1)))
        super().export(self._on_pixels(clip), folder)
        self.tokenizer.save_pretrained(folder)
        write_text(folder / NAMES_FILE, "".join(f"{name}\n" for name in known_names()))

    def _on_pixels(self, clip: CLIPModel) -> CLIPModel:
        teacher = self._tag_teacher
        config = clip_config(self.recipe, self.tokenizer, stem="efficientnet-lite0", stem_blocks=16)
        place = "vision_model.embeddings.patch_embedding"
        return fold_stem(clip, config, place, teacher.mean, teacher.deviation)

    def evaluate(self, average: nn.ModuleDict, folder: Path) -> dict[str, float]:
        """The temperature, and the mean average precision of tags of held-out photographs."""
        scale = average["clip"].logit_scale.exp().item()
        found = tag_precision(FrozenCLIP.load(folder), self._held_out)
        return {"logit_scale": scale, "tag_map": sum(found.values()) / len(found)}
