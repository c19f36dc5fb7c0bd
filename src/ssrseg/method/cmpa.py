"""Cross-modal prototype alignment: projection heads (Eq. 1), pooling (Eq. 2), losses (Eq. 3-6).

Two small heads, ISA for images and TSA for texts, are trained so that what CLIP sees *inside* a
class's CAM lies next to that class's text and away from the others.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

TEMPERATURES = (0.01, 0.5)
"""Range of τ (our choice, spec §6.4)."""


class Projector(nn.Module):
    """ISA or TSA (Eq. 1): stacked linear layers with BatchNorm and ReLU.

    With a basis W0 the head is W0·x + s·MLP(x), s = 0 at the start, so that an untrained head keeps
    CLIP's cosines. Inputs are brought to unit norm, outputs are not.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        hidden: int = 512,
        depth: int = 2,
        basis: Float[Tensor, "out dim"] | None = None,
        final_relu: bool = False,
    ) -> None:
        """Build the head.

        Args:
            dim: d1, length of CLIP's shared space.
            out: d2, length of the aligned space.
            hidden: Width between the linear layers.
            depth: Linear layers.
            basis: W0, orthonormal rows; None starts at random (the paper's words, taken literally).
            final_relu: End with a ReLU (forces cosines >= 0).
        """
        super().__init__()
        layers: list[nn.Module] = []
        widths = [dim] + [hidden] * (depth - 1) + [out]
        for index in range(depth):
            wide, next_wide = widths[index], widths[index + 1]
            layers += [nn.Linear(wide, next_wide), nn.BatchNorm1d(next_wide)]
            if index < depth - 1 or final_relu:
                layers.append(nn.ReLU())
        self.mlp = nn.Sequential(*layers)
        self.basis: Tensor | None
        self.register_buffer("basis", basis)
        self.gain = None if basis is None else nn.Parameter(torch.zeros(()))

    def forward(self, features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """Align features; any leading axes."""
        unit = functional.normalize(features, dim=-1)
        moved: Tensor = self.mlp(unit.flatten(0, -2)).view(*features.shape[:-1], -1)
        if self.basis is None or self.gain is None:
            return moved
        return unit @ self.basis.T + self.gain * moved


def shared_basis(
    text_features: Float[Tensor, "words dim"],
    image_features: Float[Tensor, "images dim"],
    out: int,
) -> Float[Tensor, "out dim"]:
    """W0: an orthonormal basis of the texts' span, completed by principal directions of images.

    Every dot product with a text survives the projection unchanged, so an untrained head differs
    from CLIP by a rescaling only; a random W0 moves the CAM by itself.

    Args:
        text_features: All texts, backgrounds included.
        image_features: Pooled image features of the training set.
        out: Rows wanted.

    Raises:
        ValueError: If ``out`` exceeds the length of the features.

    Source: our choice, spec §6.1.
    """
    dim = text_features.shape[1]
    if out > dim:
        raise ValueError(f"cmpa.out = {out} exceeds the {dim} dimensions of CLIP's space")

    def directions(rows: Tensor, size_of: Tensor) -> Tensor:
        _, size, basis = torch.linalg.svd(rows.double(), full_matrices=False)
        leading: Tensor = basis[: int((size > 1e-6 * size_of.norm()).sum())]
        return leading

    spanned = directions(text_features, text_features)[:out]
    centred = (image_features - image_features.mean(0)).double()
    rest = centred - centred @ spanned.T @ spanned
    extra = directions(rest, image_features)  # not the rounding errors of an empty rest
    complement = torch.linalg.svd(torch.cat([spanned, extra]), full_matrices=True)[2]
    free = complement[len(spanned) + len(extra) :]
    return torch.cat([spanned, extra, free])[:out].to(text_features)


class Alignment(nn.Module):
    """ISA, TSA and the learnable temperature τ: all that CMPA trains."""

    log_temperature: Tensor

    def __init__(
        self, isa: Projector, tsa: Projector, *, temperature: float = 0.05, learnable: bool = True
    ) -> None:
        """Join two heads.

        Args:
            isa: Image head.
            tsa: Text head.
            temperature: τ at the start.
            learnable: Whether τ is trained (the paper says both "learnable" and "set to 0.05").
        """
        super().__init__()
        self.isa, self.tsa = isa, tsa
        start = torch.tensor(math.log(temperature))
        if learnable:
            self.log_temperature = nn.Parameter(start)
        else:
            self.register_buffer("log_temperature", start)

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """τ, in [0.01, 0.5]."""
        return self.log_temperature.exp().clamp(*TEMPERATURES)

    @torch.no_grad()
    def keep_temperature(self) -> None:
        """Bring τ back into its range after a step; outside it would have no gradient."""
        low, high = (math.log(bound) for bound in TEMPERATURES)
        self.log_temperature.clamp_(low, high)


def no_heads(dim: int, temperature: float) -> Alignment:
    """Heads that hand CLIP's features on as they are: CMPA's read-outs without CMPA, a control.

    Args:
        dim: d1, length of CLIP's shared space.
        temperature: τ; CLIP's own is 1 / exp(logit_scale).
    """
    heads = (Projector(dim, dim, hidden=1, basis=torch.eye(dim)) for _ in ("ISA", "TSA"))
    return Alignment(*heads, temperature=temperature, learnable=False).eval()


def masked_average_pool(
    cam: Float[Tensor, "batch slots patches"], patch_features: Float[Tensor, "batch patches dim"]
) -> Float[Tensor, "batch slots dim"]:
    """Foreground feature of each class: Σ_p CAM(p)·V(p) / Σ_p CAM(p) (Eq. 2)."""
    return cam @ patch_features / cam.sum(-1, keepdim=True).clamp(min=1e-6)


def usable_pairs(
    cam: Float[Tensor, "batch slots patches"],
    present: Int[Tensor, "batch slots"],
    *,
    min_patches: int = 4,
) -> Bool[Tensor, "batch slots"]:
    """Pairs (image, class) whose CAM is large enough to pool from.

    Args:
        cam: CAMs in [0, 1].
        present: Class ids, -1 = empty slot.
        min_patches: Patches that must have a CAM above 0.4.

    Source: our choice, spec §6.2.
    """
    return (present >= 0) & (cam.sum(-1) > 1e-3) & ((cam > 0.4).sum(-1) >= min_patches)


def prototype_similarity(
    features: Float[Tensor, "pairs dim"],
    prototypes: Float[Tensor, "proto dim"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, "pairs proto"]:
    """p_ij = cos(v'_i, P_j) / τ (Eq. 3)."""
    return (
        functional.normalize(features, dim=-1) @ functional.normalize(prototypes, dim=-1).T
    ) / temperature


def prototype_loss(
    similarity: Float[Tensor, "pairs proto"], positive: Int[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """-1/N Σ_i log(exp S_pos / (exp S_pos + Σ_{j≠pos} exp S_neg,j)) (Eq. 4-6).

    This is cross-entropy over the prototypes with the positive prototype as the target.
    """
    return functional.cross_entropy(similarity, positive)
