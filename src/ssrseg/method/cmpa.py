"""Cross-modal prototype alignment, Eq. 1-6: heads, pooling, prototypes, losses.

Two small heads, ISA for images and TSA for texts, are trained so that what CLIP sees *inside* a
class's CAM lies next to that class's text and away from the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from ssrseg.method.kmeans import kmeans

TEMPERATURES = (0.01, 0.5)
"""Range of τ (our choice)."""

# --- Eq. 1: heads


class Projector(nn.Module):
    """ISA or TSA (Eq. 1): stacked linear layers with BatchNorm and ReLU.

    With a basis W0 the head is W0·x + s·MLP(x), s = 0 at the start, so that an untrained head keeps
    CLIP's cosines. Inputs are brought to unit norm, outputs are not.

    A head of one layer is linear up to that norm: what it has learned on features pooled inside a
    CAM holds for the mean of the image, too, which GradCAM feeds it.

    Args:
        dim: d1, length of CLIP's shared space.
        out: d2, length of the aligned space.
        hidden: Width between layers.
        depth: Linear layers; behind each but the last there is a ReLU.
        basis: W0, orthonormal rows; None starts at random (the paper's words, taken literally).
    """

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        hidden: int = 512,
        depth: int = 1,
        basis: Float[Tensor, "out dim"] | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise([dim, *[hidden] * (depth - 1), out]):
            layers += [nn.Linear(size_in, size_out), nn.BatchNorm1d(size_out), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.basis: Tensor | None
        self.register_buffer("basis", basis)
        self.gain = None if basis is None else nn.Parameter(torch.zeros(()))

    def forward(self, features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """Align features; any leading axes."""
        unit = functional.normalize(features, dim=-1)
        # BatchNorm1d wants (rows, dim)
        mapped: Tensor = self.mlp(unit.flatten(0, -2)).view(*features.shape[:-1], -1)
        if self.basis is None or self.gain is None:
            return mapped
        return unit @ self.basis.T + self.gain * mapped


def shared_basis(
    text_features: Float[Tensor, "words dim"], image_features: Float[Tensor, "images dim"], out: int
) -> Float[Tensor, "out dim"]:
    """W0: an orthonormal basis of the texts' span, completed by principal directions of images.

    Dot products with texts are kept exactly, so an untrained head only rescales CLIP's; a random W0
    would change the CAM. Our choice. Uses all texts, backgrounds included, and the mean feature of
    each training image.

    Raises:
        ValueError: If ``out`` exceeds the length of the features.
    """
    dim = text_features.shape[1]
    if out > dim:
        raise ValueError(f"cmpa.out = {out} exceeds the {dim} dimensions of CLIP's space")

    def leading_directions(rows: Tensor, relative_to: Tensor) -> Tensor:
        _, size, basis = torch.linalg.svd(rows.double(), full_matrices=False)
        leading: Tensor = basis[: int((size > 1e-6 * relative_to.norm()).sum())]
        return leading

    # rows 1: what the texts span
    spanned = leading_directions(text_features, text_features)[:out]
    # rows 2: leading directions of the images in what is left
    centred = (image_features - image_features.mean(0)).double()
    rest = centred - centred @ spanned.T @ spanned
    extra = leading_directions(rest, image_features)  # a rest of rounding errors has none
    # rows 3: any orthonormal rest
    complement = torch.linalg.svd(torch.cat([spanned, extra]), full_matrices=True)[2]
    free = complement[len(spanned) + len(extra) :]
    return torch.cat([spanned, extra, free])[:out].to(text_features)


class Alignment(nn.Module):
    """ISA, TSA and the temperature τ: all that CMPA trains.

    The paper calls τ learnable and sets it to 0.05: that is its start, and ``learnable`` whether it
    moves.
    """

    log_temperature: Tensor

    def __init__(
        self, isa: Projector, tsa: nn.Module, *, temperature: float = 0.05, learnable: bool = True
    ) -> None:
        super().__init__()
        self.isa, self.tsa = isa, tsa
        start = torch.tensor(math.log(temperature))
        if learnable:
            self.log_temperature = nn.Parameter(start)
        else:
            self.register_buffer("log_temperature", start)

    def train(self, mode: bool = True) -> Alignment:
        """Training mode for the heads that learn; a frozen one keeps its BatchNorm's means."""
        super().train(mode)
        for head in (self.isa, self.tsa):
            head.train(mode and any(weight.requires_grad for weight in head.parameters()))
        return self

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """τ, in [0.01, 0.5]."""
        return self.log_temperature.exp().clamp(*TEMPERATURES)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Bring τ back into its range after a step; outside it would have no gradient."""
        low, high = (math.log(bound) for bound in TEMPERATURES)
        self.log_temperature.clamp_(low, high)


# --- Eq. 2: foreground features


def masked_average_pool(
    cam: Float[Tensor, "batch slots patches"], patch_features: Float[Tensor, "batch patches dim"]
) -> Float[Tensor, "batch slots dim"]:
    """Foreground feature of each class: Σ_p CAM(p)·V(p) / Σ_p CAM(p) (Eq. 2)."""
    return cam @ patch_features / cam.sum(-1, keepdim=True).clamp(min=1e-6)


def pool_foreground(
    patch_features: Float[Tensor, "batch patches dim"],
    cam: Float[Tensor, "batch slots grid_h grid_w"],
    inside: Bool[Tensor, "batch patches"] | None = None,
) -> tuple[Float[Tensor, "batch slots dim"], Float[Tensor, "batch dim"]]:
    """Foreground feature of every slot and background feature of every image (Eq. 2).

    The background is pooled by 1 - max_c CAM_c.

    Args:
        patch_features: V, or ISA(V).
        cam: In [0, 1].
        inside: False = padding, which belongs to neither.
    """
    foreground = cam.flatten(2)  # (batch, slots, patches)
    background = 1 - foreground.amax(1, keepdim=True)  # (batch, 1, patches)
    if inside is not None:
        foreground, background = foreground * inside[:, None], background * inside[:, None]
    return (
        masked_average_pool(foreground, patch_features),
        masked_average_pool(background, patch_features)[:, 0],
    )


def usable_pairs(
    cam: Float[Tensor, "batch slots patches"],
    present: Int[Tensor, "batch slots"],
    *,
    min_patches: int = 4,
) -> Bool[Tensor, "batch slots"]:
    """Pairs (image, class) with a CAM above 0.4 in at least ``min_patches`` (our choice)."""
    return (present >= 0) & (cam.sum(-1) > 1e-3) & ((cam > 0.4).sum(-1) >= min_patches)


# --- Prototypes


@dataclass(frozen=True)
class Prototypes:
    """P_I, unit norm, row c for class c; and the share of pairs in the cluster of their class."""

    image: Float[Tensor, "proto dim"]
    purity: float


@torch.no_grad()
def image_prototypes(
    features: Float[Tensor, "pairs dim"],
    classes: Int[Tensor, " pairs"],
    fallback: Float[Tensor, "proto dim"],
    *,
    method: Literal["kmeans", "class_mean"] = "kmeans",
) -> Prototypes:
    """K-means with K = C over the foreground features of the training set (paper).

    The paper leaves open where it starts and which cluster belongs to which class. Our choice: it
    starts from the class means, and the Hungarian method matches clusters to classes on the counts
    of (cluster, class), so that row c of P_I and row c of P_T speak of the same class.

    Args:
        features: f_image of the whole training set, aligned, any norm.
        fallback: Row c stands in for a class without a single pair (its aligned text).
        method: ``class_mean`` skips K-means.
    """
    unit = functional.normalize(features, dim=-1)
    n_classes = len(fallback)
    # start: the mean of each class, (classes, dim)
    member = functional.one_hot(classes, n_classes).to(unit)  # (pairs, classes)
    count = member.sum(0)
    start = functional.normalize(member.T @ unit, dim=-1)
    start = torch.where(count[:, None] > 0, start, functional.normalize(fallback, dim=-1))
    if method == "class_mean":
        return Prototypes(start, 1.0)
    # K-means over all pairs
    valid = torch.ones(1, len(unit), dtype=torch.bool, device=unit.device)
    assignment, centroids = kmeans(unit[None], start[None], valid)
    # match clusters to classes on the counts, (clusters, classes)
    counts = functional.one_hot(assignment[0], n_classes).to(unit).T @ member
    own = torch.eye(n_classes, device=unit.device) / (n_classes + 1)  # among equals, c stays c
    cluster, matched = linear_sum_assignment(-(counts + own).cpu().numpy())
    order = torch.empty(n_classes, dtype=torch.long)
    order[torch.from_numpy(matched)] = torch.from_numpy(cluster)
    purity = float(counts[cluster, matched].sum() / counts.sum().clamp(min=1))
    rows = functional.normalize(centroids[0][order.to(unit.device)], dim=-1)
    return Prototypes(torch.where(count[:, None] > 0, rows, start), purity)


def positive_index(
    features: Float[Tensor, "pairs dim"],
    prototypes: Float[Tensor, "proto dim"],
    classes: Int[Tensor, " pairs"],
    labels: Bool[Tensor, "pairs proto"],
    rule: Literal["cluster", "class", "cluster_present"],
) -> Int[Tensor, " pairs"]:
    """Which prototype is a pair's positive (``pos`` of Eq. 4).

    ``cluster``: the nearest one, the paper's "cluster-generated pseudo label". ``cluster_present``:
    the nearest among the classes of the pair's image, ``labels``. ``class``: the pair's class.
    """
    if rule == "class":
        return classes
    cosine = prototype_similarity(features, prototypes, 1.0)
    if rule == "cluster_present":
        cosine = cosine.masked_fill(~labels, -torch.inf)
    return cosine.argmax(-1)


# --- Eq. 3-6: losses


def prototype_similarity(
    features: Float[Tensor, "pairs dim"],
    prototypes: Float[Tensor, "proto dim"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, "pairs proto"]:
    """p_ij = cos(v'_i, P_j) / τ (Eq. 3)."""
    cosine = functional.normalize(features, dim=-1) @ functional.normalize(prototypes, dim=-1).T
    return cosine / temperature


def prototype_loss(
    similarity: Float[Tensor, "pairs proto"], positive: Int[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """-1/N Σ_i log(exp S_pos / (exp S_pos + Σ_{j≠pos} exp S_neg,j)) (Eq. 4-6).

    This is cross-entropy over the prototypes with the positive prototype as the target.
    """
    return functional.cross_entropy(similarity, positive)


def alignment_loss(
    loss: Literal["crossmodal", "in_modal", "feature"],
    image: Float[Tensor, "pairs dim"],
    classes: Int[Tensor, " pairs"],
    positive: Int[Tensor, " pairs"],
    text: Float[Tensor, "words dim"],
    image_prototypes: Float[Tensor, "proto dim"],
    temperature: float | Float[Tensor, ""],
    *,
    symmetric: bool = True,
    bg_negatives: bool = True,
    text_gradient: bool = False,
) -> Float[Tensor, ""]:
    """L_proto (Eq. 3-6) and the other rows of Table 4.

    ``crossmodal`` is the paper's: images against text prototypes and texts against image
    prototypes. ``in_modal``: images against image prototypes, texts against text prototypes.
    ``feature``: pull each pair together, without prototypes and negatives. The symmetric form and
    what the rows of Table 4 mean are our choice.

    Args:
        loss: Row of Table 4.
        image: f_image of each pair, aligned (with gradient).
        classes: Of each pair.
        positive: See ``positive_index``.
        text: T', all aligned texts, the classes first (with gradient). As K-means of K distinct
            rows into K clusters gives back the rows, the text prototypes P_T are T'[:K].
        image_prototypes: P_I, one row per class, or per text if backgrounds have prototypes too (no
            gradient).
        symmetric: Also texts to prototypes; without it, and without ``text_gradient``, TSA has no
            gradient (Eq. 6, literally).
        bg_negatives: Background texts join P_T as further negatives; with K = C + M they are
            rows of P_T anyway.
        text_gradient: P_T passes the gradient of the images' term on to TSA.
    """
    pair_text = text[classes]  # f_text of each pair
    if loss == "feature":
        return (1 - functional.cosine_similarity(image, pair_text, dim=-1)).mean()
    text_prototypes = text if bg_negatives else text[: len(image_prototypes)]
    text_prototypes = text_prototypes if text_gradient else text_prototypes.detach()
    facing_image, facing_text = text_prototypes, image_prototypes
    if loss == "in_modal":
        facing_image, facing_text = facing_text, facing_image
    similarity = prototype_similarity(image, facing_image, temperature)  # Eq. 3
    value = prototype_loss(similarity, positive)  # Eq. 4-6
    if symmetric:
        similarity = prototype_similarity(pair_text, facing_text, temperature)
        value = (value + prototype_loss(similarity, classes)) / 2
    return value


def background_loss(
    background: Float[Tensor, "pairs dim"],
    word: Int[Tensor, " pairs"],
    text: Float[Tensor, "words dim"],
    temperature: float | Float[Tensor, ""],
    *,
    image_prototypes: Float[Tensor, "words dim"] | None = None,
    text_gradient: bool = False,
) -> Float[Tensor, ""]:
    """Background features against all texts, a background text as positive (our choice).

    Without it background texts are negatives only, drift away from everything and stop competing
    in the CAM's softmax.

    Args:
        background: Aligned MAP(1 - max CAM, V), one per image.
        word: Row of ``text`` that is the positive.
        text: T'.
        image_prototypes: P_I with K = C + M, a row per text: background texts are then pulled to
            theirs, as the texts of classes are by ``alignment_loss`` if it is symmetric. None =
            K = C, or images to texts only.
        text_gradient: A gradient flows into ``text`` from the images too.
    """
    facing_image = text if text_gradient else text.detach()
    value = prototype_loss(prototype_similarity(background, facing_image, temperature), word)
    if image_prototypes is None:
        return value
    similarity = prototype_similarity(text[word], image_prototypes, temperature)
    return (value + prototype_loss(similarity, word)) / 2


def background_words(
    background: Float[Tensor, "images dim"], text: Float[Tensor, "words dim"], n_classes: int
) -> Int[Tensor, " images"]:
    """The background text that is nearest to each image's background, as a row of ``text``.

    Args:
        background: MAP(1 - max CAM, V), CLIP's own.
        text: T, unit norm, the classes first; at least one background.
    """
    unit = functional.normalize(background, dim=-1)
    return (unit @ text[n_classes:].T).argmax(-1) + n_classes
