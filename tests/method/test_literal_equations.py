"""Every equation of the paper once, slowly, as it is printed: loops over single numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from skimage.segmentation import slic
from torch import Tensor

from ssrseg.method.affinity import fuse_attention
from ssrseg.method.cmpa import (
    Projector,
    masked_average_pool,
    prototype_loss,
    prototype_similarity,
)
from ssrseg.method.objective import segmentation_loss, ssr_loss
from ssrseg.method.sgc import (
    activation_ratio,
    colour_regions,
    corrected_cam,
    correction_mask,
    slic_labels,
    target_patches,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def norm(a: list[float]) -> float:
    return math.sqrt(dot(a, a))


def test_eq_1_projection():
    """v' = ISA(v): linear, BatchNorm, ReLU, linear, BatchNorm, number by number."""
    torch.manual_seed(0)
    isa = Projector(5, 3, hidden=4, depth=2).eval()
    first, norm_1, _, second, norm_2 = isa.mlp
    for layer in (norm_1, norm_2):
        layer.running_mean.copy_(randn(1, layer.num_features))
        layer.running_var.copy_(0.5 + rand(2, layer.num_features))
        layer.weight.data.copy_(randn(3, layer.num_features))
        layer.bias.data.copy_(randn(4, layer.num_features))
    v = randn(5, 2, 5)
    ours = isa(v)
    for i in range(2):
        x = v[i].tolist()
        x = [value / norm(v[i].tolist()) for value in x]
        for linear, batch_norm in ((first, norm_1), (second, norm_2)):
            y = []
            for k in range(linear.out_features):
                z = dot(x, linear.weight[k].tolist()) + linear.bias[k].item()
                z = (z - batch_norm.running_mean[k].item()) / math.sqrt(
                    batch_norm.running_var[k].item() + batch_norm.eps
                )
                z = z * batch_norm.weight[k].item() + batch_norm.bias[k].item()
                y.append(max(z, 0.0) if linear is first else z)
            x = y
        assert ours[i].tolist() == pytest.approx(x, abs=1e-4)


def test_eq_2_masked_average_pooling():
    """f_image(i, c) = Σ_p CAM_c(p)·V'_i(p) / Σ_p CAM_c(p)."""
    cam, aligned = rand(0, 2, 3, 6), randn(1, 2, 6, 4)
    pooled = masked_average_pool(cam, aligned)
    for i in range(2):
        for c in range(3):
            weights = cam[i, c].tolist()
            for k in range(4):
                wanted = dot(weights, aligned[i, :, k].tolist()) / sum(weights)
                assert pooled[i, c, k].item() == pytest.approx(wanted, abs=1e-5)


def test_eq_3_similarity():
    """p_ij = v'_i · P_T[j] / τ, both of unit norm."""
    features, prototypes, tau = randn(0, 3, 5), randn(1, 4, 5), 0.05
    p = prototype_similarity(features, prototypes, tau)
    for i in range(3):
        for j in range(4):
            v, t = features[i].tolist(), prototypes[j].tolist()
            assert p[i, j].item() == pytest.approx(dot(v, t) / (norm(v) * norm(t)) / tau, abs=1e-4)


def test_eq_4_to_6_prototype_loss():
    """S_pos = p_i,pos; S_neg = {p_ij : j ≠ pos}; -1/N Σ log(e^S_pos / (e^S_pos + Σ e^S_neg))."""
    p, positive = 2 * randn(0, 5, 4), [2, 0, 3, 3, 1]
    total = 0.0
    for i in range(5):
        s_pos = p[i, positive[i]].item()
        s_neg = [p[i, j].item() for j in range(4) if j != positive[i]]
        assert len(s_neg) == 3  # C - 1 of them
        below = math.exp(s_pos) + sum(math.exp(s) for s in s_neg)
        total += math.log(math.exp(s_pos) / below)
    ours = prototype_loss(p, torch.tensor(positive))
    assert ours.item() == pytest.approx(-total / 5, abs=1e-5)


def test_eq_7_slic():
    """S = SLIC(I): every pixel in one superpixel, the nearest one in colour and place."""
    side, wanted, compactness = 48, 36, 10.0
    image = (255 * rand(0, 6, 6, 3)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    pixels = image.round().to(torch.uint8)
    ours = slic_labels(pixels, wanted, compactness)
    names = sorted(set(ours.flatten().tolist()))
    assert names == list(range(len(names))) and len(names) > 30
    library = slic(pixels.numpy(), n_segments=wanted, compactness=compactness, start_label=0)
    assert ours.tolist() == library.tolist()
    lab = rgb2lab(pixels.double().numpy() / 255)
    colour, middle = {}, {}
    for k in names:
        inside = [(y, x) for y in range(side) for x in range(side) if ours[y, x] == k]
        colour[k] = sum(lab[y, x] for y, x in inside) / len(inside)
        middle[k] = [sum(each) / len(inside) for each in zip(*inside, strict=True)]
    for y in range(side):
        for x in range(side):
            distance = {}
            for k in names:
                in_colour = float(((lab[y, x] - colour[k]) ** 2).sum())
                in_place = (y - middle[k][0]) ** 2 + (x - middle[k][1]) ** 2
                # m² / S²: compactness against the spacing of the superpixels asked for
                distance[k] = in_colour + in_place * compactness**2 / (side * side / wanted)
            assert min(distance, key=distance.__getitem__) == ours[y, x]


def test_eq_8_regions():
    """R_1 .. R_K = K-means of the superpixels' mean CIELAB colours."""
    palette = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8], [0.2, 0.8, 0.3]])
    colour_of = torch.randint(0, 3, (16,), generator=generator(0))
    superpixels = torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    noise = 0.04 * randn(1, 16, 16, 3)
    image = (palette[colour_of[superpixels]] + noise).clamp(0, 1)
    lab = rgb2lab(image.double().numpy())
    mean = []
    for k in range(16):
        inside = [lab[y, x] for y in range(16) for x in range(16) if superpixels[y, x] == k]
        mean.append(sum(inside) / len(inside))
    regions = colour_regions(image.permute(2, 0, 1)[None], superpixels[None], 3)[0]
    region = [regions[4 * (k // 4), 4 * (k % 4)].item() for k in range(16)]
    centre = {
        r: sum(m for m, q in zip(mean, region, strict=True) if q == r) / region.count(r)
        for r in set(region)
    }
    assert set(centre) == {0, 1, 2}
    for k in range(16):
        nearest = min(centre, key=lambda r, k=k: float(np.square(mean[k] - centre[r]).sum()))
        assert region[k] == nearest
        assert [q for q, c in zip(region, colour_of, strict=True) if c == colour_of[k]] == [
            region[k]
        ] * int((colour_of == colour_of[k]).sum())


def test_eq_8_target_regions():
    """R_k is a target iff (Σ of its activations >= τ_hi) / (Σ of its activations) > ρ."""
    cam = rand(0, 1, 1, 8, 8) ** 3
    cam = (cam - cam.min()) / (cam.max() - cam.min())
    regions = torch.randint(0, 4, (1, 8, 8), generator=generator(1))
    r = activation_ratio(cam, regions, 4, high=0.4)
    ratio = []
    for k in range(4):
        inside = [
            cam[0, 0, y, x].item() for y in range(8) for x in range(8) if regions[0, y, x] == k
        ]
        ratio.append(sum(a for a in inside if a >= 0.4) / sum(inside))
    assert r[0, 0].tolist() == pytest.approx(ratio, abs=1e-5)
    rho = sum(sorted(ratio)[1:3]) / 2  # two regions pass, two do not
    target = target_patches(cam, regions, 4, high=0.4, min_ratio=rho)  # a patch is a pixel here
    for y in range(8):
        for x in range(8):
            assert target[0, 0, 8 * y + x].item() == (ratio[int(regions[0, y, x])] > rho)


def test_eq_9_affinity():
    """A = 0.4·Ā_clip ⊕ 0.6·Ā_dino, each with rows that sum to 1: concat, then weighted mean."""
    clip, dino = rand(0, 1, 5, 5), rand(1, 1, 5, 5)
    fused = fuse_attention(clip, dino)
    for i in range(5):
        for j in range(5):
            a = clip[0, i, j].item() / sum(clip[0, i].tolist())
            b = dino[0, i, j].item() / sum(dino[0, i].tolist())
            concat = [a] * 4 + [b] * 6
            assert fused[0, i, j].item() == pytest.approx(sum(concat) / 10, abs=1e-6)


def test_eq_10_and_11_correction():
    """Mask_ij = 1 iff j is a target; A* = A ⊙ Mask; CAM_refine(i) = Σ_j A*_ij·CAM(j)."""
    root, cam = rand(0, 1, 6, 6), rand(1, 1, 2, 2, 3)
    target = torch.tensor([[[1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 1]]]).bool()
    mask = correction_mask(target)
    refined = corrected_cam(root, cam, target, power=2)
    for c in range(2):
        for i in range(6):
            wanted = 0.0
            for j in range(6):
                affinity = sum(root[0, i, m].item() * root[0, m, j].item() for m in range(6))
                masked = 1 if bool(target[0, c, j]) else 0
                assert mask[0, c, i, j].item() == bool(masked)
                wanted += affinity * masked * cam[0, c, j // 3, j % 3].item()
            assert refined[0, c, i // 3, i % 3].item() == pytest.approx(wanted, abs=1e-5)


def test_eq_12_objective():
    """L_SSR = L_proto + 0.1·L_seg, L_seg the cross-entropy with the online pseudo mask."""
    p, positive = randn(0, 4, 3), torch.tensor([0, 2, 1, 1])
    logits, ids = randn(1, 1, 3, 2, 2), torch.tensor([[[0, 2], [255, 0]]], dtype=torch.uint8)
    proto = 0.0
    for i in range(4):
        e = [math.exp(s) for s in p[i].tolist()]
        proto -= math.log(e[int(positive[i])] / sum(e)) / 4
    entropy = {}
    for y, x in [(0, 0), (0, 1), (1, 1)]:
        e = [math.exp(s) for s in logits[0, :, y, x].tolist()]
        entropy[y, x] = -math.log(e[int(ids[0, y, x])] / sum(e))
    seg = ((entropy[0, 0] + entropy[1, 1]) / 2 + entropy[0, 1]) / 2
    ours = ssr_loss(prototype_loss(p, positive), segmentation_loss(logits, ids))
    assert ours.item() == pytest.approx(proto + 0.1 * seg, abs=1e-5)
