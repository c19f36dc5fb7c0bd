from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ssrseg.method.cmpa import (
    Alignment,
    Projector,
    alignment_loss,
    background_loss,
    background_words,
    image_prototypes,
    masked_average_pool,
    pool_foreground,
    positive_index,
    prototype_loss,
    prototype_similarity,
    shared_basis,
    usable_pairs,
)

DIM, OUT, CLASSES, WORDS, PAIRS = 10, 6, 3, 5, 7
TAU = 0.2


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1)


def slow_cross_entropy(query: Tensor, keys: Tensor, positive: int, tau: float) -> Tensor:
    similarity = [query @ key / (query.norm() * key.norm()) / tau for key in keys]
    return -torch.log(similarity[positive].exp() / sum(s.exp() for s in similarity))


# --- Eq. 1


def test_a_random_head_is_linear_batchnorm_relu_linear_batchnorm():
    head = Projector(DIM, OUT, hidden=8, depth=2)
    names = [type(layer).__name__ for layer in head.mlp]
    assert names == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    x = randn(0, 20, DIM)
    hidden = unit(x) @ head.mlp[0].weight.T + head.mlp[0].bias
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    out = hidden.clamp(min=0) @ head.mlp[3].weight.T + head.mlp[3].bias
    out = (out - out.mean(0)) / (out.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), out, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_counts_the_linear_layers_and_the_last_has_no_relu(depth):
    head = Projector(DIM, OUT, hidden=8, depth=depth)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in head.mlp) == depth
    assert (head(randn(1, 30, DIM)) < 0).any()


def test_parameters_of_the_heads():
    def count(head: Projector) -> int:
        return sum(value.numel() for value in head.parameters())

    # Linear and BatchNorm of each layer; the basis is no parameter, its gain is one
    wide, narrow = 512 * 512 + 512 + 2 * 512, 512 * 256 + 256 + 2 * 256
    assert count(Projector(512, 256, depth=2)) == wide + narrow == 395_520
    assert count(Projector(512, 256)) == narrow == 131_840
    assert count(Projector(512, 256, basis=torch.eye(512)[:256])) == 131_841


def test_any_leading_axes_and_any_norm():
    head = Projector(DIM, OUT, hidden=8).eval()
    x = randn(0, 3, 4, DIM)
    torch.testing.assert_close(head(x)[1, 2], head(9 * x[1, 2:3])[0])
    assert head(x).shape == (3, 4, OUT)


def test_an_untrained_residual_head_is_its_basis_and_trains_from_the_gain():
    basis = shared_basis(randn(0, WORDS, DIM), randn(1, 20, DIM), OUT)
    head = Projector(DIM, OUT, hidden=8, basis=basis)
    x = randn(2, 12, DIM)
    torch.testing.assert_close(head(x), unit(x) @ basis.T)
    head(x).square().sum().backward()
    assert head.gain.grad.abs() > 0
    assert "basis" not in dict(head.named_parameters())
    assert "basis" in head.state_dict()


# --- W0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    words=st.integers(1, 8),
    images=st.integers(1, 30),
    dim=st.integers(2, 12),
    data=st.data(),
)
def test_basis_is_orthonormal_and_keeps_every_dot_product_with_a_text(
    seed, words, images, dim, data
):
    out = data.draw(st.integers(min(words, dim), dim))
    text, image = randn(seed, words, dim), randn(seed + 1, images, dim)
    basis = shared_basis(text, image, out)
    assert basis.shape == (out, dim)
    torch.testing.assert_close(basis @ basis.T, torch.eye(out), atol=1e-5, rtol=0)
    torch.testing.assert_close((image @ basis.T) @ (text @ basis.T).T, image @ text.T,
                               atol=1e-4, rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_basis_stays_orthonormal_where_images_add_no_direction(dtype):
    text = randn(0, 4, DIM).to(dtype)
    for image in (randn(1, 20, 4).to(dtype) @ text, text[:1], torch.zeros(3, DIM, dtype=dtype)):
        basis = shared_basis(text, image, 8)
        torch.testing.assert_close(basis @ basis.T, torch.eye(8, dtype=dtype), atol=1e-5, rtol=0)


def test_basis_of_repeated_texts_and_of_more_texts_than_rows():
    text = randn(0, 3, DIM).repeat(3, 1)
    basis = shared_basis(text, randn(1, 20, DIM), 5)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close((text @ basis.T).norm(dim=1), text.norm(dim=1))
    basis = shared_basis(randn(2, 9, DIM), randn(1, 20, DIM), 4)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4), atol=1e-5, rtol=0)


def test_rows_after_the_texts_are_leading_directions_of_the_images():
    text = torch.eye(DIM)[:2]
    image = randn(0, 200, DIM) * torch.tensor([1, 1, 0.1, 5, 0.1, 0.1, 3, 0.1, 0.1, 0.1])
    basis = shared_basis(text, image, 4).abs()
    assert basis[2].argmax() == 3
    assert basis[3].argmax() == 6
    assert (basis[2:].amax(1) > 0.99).all()


def test_thousands_of_images_need_no_square_matrix_of_them():
    image = randn(0, 60_000, 4)  # 60,000² doubles would be 29 GB
    assert shared_basis(randn(1, 2, 4), image, 3).shape == (3, 4)


def test_basis_longer_than_the_space_is_refused():
    with pytest.raises(ValueError, match=r"cmpa\.out = 11 exceeds the 10 dimensions"):
        shared_basis(randn(0, 2, DIM), randn(1, 3, DIM), 11)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_untrained_heads_keep_clips_cosines_up_to_one_scale_per_image(seed):
    text, image = randn(seed, WORDS, DIM), randn(seed + 1, 8, DIM)
    basis = shared_basis(text, image, OUT)
    isa, tsa = (Projector(DIM, OUT, hidden=8, basis=basis.clone()) for _ in range(2))
    before = unit(image) @ unit(text).T
    after = unit(isa(image)) @ unit(tsa(text)).T
    shrink = (unit(image) @ basis.T).norm(dim=1, keepdim=True)
    torch.testing.assert_close(after * shrink, before, atol=1e-5, rtol=0)
    assert torch.equal(after.argsort(1), before.argsort(1))
    between = unit(tsa(text)) @ unit(tsa(text)).T
    torch.testing.assert_close(between, unit(text) @ unit(text).T, atol=1e-5, rtol=0)


# --- τ


def heads() -> tuple[Projector, Projector]:
    return Projector(DIM, OUT, hidden=8), Projector(DIM, OUT, hidden=8)


@pytest.mark.parametrize(("start", "seen"), [(0.05, 0.05), (0.001, 0.01), (3.0, 0.5)])
def test_temperature_starts_as_asked_and_stays_in_its_range(start, seen):
    temperature = Alignment(*heads(), temperature=start).temperature
    assert temperature.item() == pytest.approx(seen)


def test_temperature_is_learned_only_if_asked():
    learned, fixed = Alignment(*heads()), Alignment(*heads(), learnable=False)
    assert "log_temperature" in dict(learned.named_parameters())
    assert "log_temperature" not in dict(fixed.named_parameters())
    assert "log_temperature" in fixed.state_dict()
    learned.temperature.backward()
    assert learned.log_temperature.grad.item() == pytest.approx(0.05)


# --- Eq. 2


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_pooling_by_a_loop(seed):
    cam = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(seed))
    features = randn(seed, 2, 5, 4)
    pooled = masked_average_pool(cam, features)
    for b in range(2):
        for c in range(3):
            wanted = sum(cam[b, c, p] * features[b, p] for p in range(5)) / sum(cam[b, c])
            torch.testing.assert_close(pooled[b, c], wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masked_average_pool(0.01 * cam, features), pooled,
                               atol=1e-4, rtol=1e-4)  # fmt: skip


def test_pooling_with_an_empty_cam_is_zero():
    assert masked_average_pool(torch.zeros(1, 1, 4), randn(0, 1, 4, 3)).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("padded", [False, True])
def test_foreground_and_background_by_a_loop(padded):
    cam = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    features = randn(1, 2, 4, 5)
    inside = torch.tensor([[True, False, True, True], [True, True, False, True]])
    foreground, background = pool_foreground(features, cam, inside if padded else None)
    for b in range(2):
        counted = [p for p in range(4) if not padded or inside[b, p]]
        for c in range(3):
            weight = {p: cam[b, c, p // 2, p % 2] for p in counted}
            wanted = sum(w * features[b, p] for p, w in weight.items()) / sum(weight.values())
            torch.testing.assert_close(foreground[b, c], wanted)
        weight = {p: 1 - max(cam[b, c, p // 2, p % 2] for c in range(3)) for p in counted}
        wanted = sum(w * features[b, p] for p, w in weight.items()) / sum(weight.values())
        torch.testing.assert_close(background[b], wanted)


def test_a_usable_pair_has_a_class_and_enough_strong_patches():
    cam = torch.tensor([[[0.9] * 4, [0.9] * 3 + [0.4], [0.9] * 4, [0.0] * 4]])
    present = torch.tensor([[0, 1, -1, 2]])
    assert usable_pairs(cam, present).tolist() == [[True, False, False, False]]
    assert usable_pairs(cam, present, min_patches=3).tolist() == [[True, True, False, False]]
    assert usable_pairs(cam, present, min_patches=0).tolist() == [[True, True, False, False]]


# --- prototypes


def blobs(classes: Tensor, noise: float = 0.05) -> Tensor:
    """Features of each class around its own axis."""
    return torch.eye(6)[classes] + noise * randn(0, len(classes), 6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), repeats=st.integers(1, 4))
def test_kmeans_of_text_rows_gives_the_rows(seed, repeats):
    """Why P_T needs no K-means: C distinct rows in C clusters."""
    text = randn(seed, 5, 8)
    classes = torch.arange(5).repeat(repeats)
    found = image_prototypes(text[classes], classes, randn(seed + 1, 5, 8))
    torch.testing.assert_close(found.image, unit(text))
    assert found.purity == 1.0


def test_class_means_by_a_loop():
    classes = torch.tensor([0, 2, 2, 0, 2, 1])
    features = randn(3, 6, 4) * torch.rand(6, 1, generator=torch.Generator().manual_seed(1))
    found = image_prototypes(features, classes, randn(4, 3, 4), method="class_mean")
    for c in range(3):
        mean = sum(features[i] / features[i].norm() for i in range(6) if classes[i] == c)
        torch.testing.assert_close(found.image[c], mean / mean.norm())


def test_clean_blobs_keep_their_class():
    classes = torch.arange(24) % 4
    found = image_prototypes(blobs(classes), classes, randn(1, 4, 6))
    assert found.purity == 1.0
    assert (found.image @ torch.eye(6)[:4].T).argmax(1).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(found.image.norm(dim=1), torch.ones(4))


def on_circle(*degrees: float) -> Tensor:
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_hungarian_matching_where_the_clusters_changed_places():
    """Class 0's mean wins class 1's pairs and the reverse; the counts put the rows right."""
    features = on_circle(80, 100, 100, 220, 40, 120, 120)
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = image_prototypes(features, classes, torch.eye(2))
    wanted = torch.stack([on_circle(80, 100, 100, 40).sum(0), on_circle(220, 120, 120).sum(0)])
    torch.testing.assert_close(found.image, unit(wanted))
    assert found.purity == pytest.approx(5 / 7)  # without matching it would be 2 / 7


def test_renamed_classes_give_renamed_prototypes():
    features = on_circle(80, 100, 100, 220, 40, 120, 120)
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    straight = image_prototypes(features, classes, torch.eye(2))
    renamed = image_prototypes(features, 1 - classes, torch.eye(2))
    torch.testing.assert_close(renamed.image, straight.image.flip(0))
    assert renamed.purity == straight.purity


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_no_other_matching_is_purer(seed):
    """Purity equals the best over all permutations, for hard, overlapping classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.cat([torch.arange(3), torch.randint(0, 3, (15,), generator=generator)])
    features = unit(randn(seed, 18, 3))
    found = image_prototypes(features, classes, randn(seed + 1, 3, 3))
    means = torch.stack([unit(features[classes == c].sum(0)) for c in range(3)])
    centroids, assignment = means.clone(), None
    for _ in range(50):
        nearest = torch.cdist(features, centroids).argmin(1)
        if assignment is not None and torch.equal(nearest, assignment):
            break
        assignment = nearest
        for k in nearest.unique():
            centroids[k] = features[nearest == k].mean(0)
    best = max(
        sum(int(((assignment == k) & (classes == c)).sum()) for c, k in enumerate(order))
        for order in permutations(range(3))
    )
    assert found.purity == pytest.approx(best / 18)
    agreed = sum(
        int(((assignment == k) & (classes == c)).sum())
        for c in range(3)
        for k in range(3)
        if torch.allclose(unit(centroids[k]), found.image[c], atol=1e-5)
    )
    assert agreed == best


@pytest.mark.parametrize("method", ["kmeans", "class_mean"])
def test_classes_without_pairs_keep_their_text(method):
    classes = torch.tensor([1, 3, 1, 3, 3, 1])
    text = torch.eye(6)[[4, 1, 5, 3, 2]] * 7
    found = image_prototypes(blobs(classes), classes, text, method=method)
    for c in (0, 2, 4):
        torch.testing.assert_close(found.image[c], unit(text[c]))
    assert (found.image[[1, 3]] @ torch.eye(6).T).argmax(1).tolist() == [1, 3]


def test_a_class_without_pairs_keeps_its_text_even_if_its_cluster_draws_pairs():
    """Two blobs of class 0; class 1's text lies in one of them and takes it over."""
    features = torch.cat([torch.eye(6)[[0] * 5], torch.eye(6)[[1] * 4]])
    classes = torch.zeros(9, dtype=torch.long)
    text = torch.stack([torch.eye(6)[0], unit(torch.eye(6)[1] + 0.3 * torch.eye(6)[2])])
    found = image_prototypes(features, classes, text)
    torch.testing.assert_close(found.image[0], torch.eye(6)[0])
    torch.testing.assert_close(found.image[1], text[1])
    assert found.purity == pytest.approx(5 / 9)


def test_no_pair_at_all_leaves_the_texts():
    text = randn(0, 3, 4)
    found = image_prototypes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), text)
    torch.testing.assert_close(found.image, unit(text))


def test_prototypes_carry_no_gradient():
    classes = torch.arange(12) % 3
    features = blobs(classes).requires_grad_()
    for method in ("kmeans", "class_mean"):
        assert not image_prototypes(
            features, classes, randn(0, 3, 6), method=method
        ).image.requires_grad


def test_norms_do_not_matter():
    classes = torch.arange(20) % 4
    features = blobs(classes, 0.4)
    sizes = 0.1 + torch.rand(20, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        image_prototypes(features * sizes, classes, randn(0, 4, 6)).image,
        image_prototypes(features, classes, randn(0, 4, 6)).image,
    )


POINTS = torch.tensor([[1.0, 0.1, 0.0], [0.1, 1.0, 0.2], [0.0, 0.6, 0.5]])
OWN = torch.tensor([0, 0, 2])
LABELS = torch.tensor([[True, False, False], [True, False, True], [False, True, True]])


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [("class", [0, 0, 2]), ("cluster", [0, 1, 1]), ("cluster_present", [0, 2, 1])],
)
def test_positive_index_rules(rule, wanted):
    assert positive_index(POINTS, 5 * torch.eye(3), OWN, LABELS, rule).tolist() == wanted


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_cluster_present_never_contradicts_the_labels(seed):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 4, (9,), generator=generator)
    labels = torch.rand(9, 4, generator=generator) > 0.6
    labels[torch.arange(9), classes] = True
    prototypes = randn(seed, 4, 5)
    features = randn(seed + 1, 9, 5)
    index = positive_index(features, prototypes, classes, labels, "cluster_present")
    assert labels[torch.arange(9), index].all()
    scaled = positive_index(3 * features, 2 * prototypes, classes, labels, "cluster_present")
    assert torch.equal(scaled, index)


# --- Eq. 3-6 and Table 4


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """f_image, classes, positive, T', P_I; the positive is not always the class."""
    classes = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    positive = torch.tensor([0, 1, 2, 1, 1, 0, 2])
    return randn(0, PAIRS, OUT), classes, positive, randn(1, WORDS, OUT), randn(2, CLASSES, OUT)


def test_similarity_is_a_cosine_over_tau():
    image, _, _, text, _ = batch()
    similarity = prototype_similarity(image, text, TAU)
    wanted = functional.cosine_similarity(image[:, None], text[None], dim=-1) / TAU
    torch.testing.assert_close(similarity, wanted)
    torch.testing.assert_close(prototype_similarity(3 * image, text / 7, TAU), similarity)


def test_loss_of_one_hot_prototypes_vanishes_with_tau():
    eye = torch.eye(4)
    losses = [
        float(prototype_loss(prototype_similarity(eye, eye, tau), torch.arange(4)))
        for tau in (1.0, 0.3, 0.1, 0.02)
    ]
    assert losses[0] == pytest.approx(-math.log(math.e / (math.e + 3)), abs=1e-6)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bg_negatives", [True, False])
@pytest.mark.parametrize("loss", ["crossmodal", "in_modal"])
def test_prototype_losses_by_hand(loss, symmetric, bg_negatives):
    image, classes, positive, text, proto = batch()
    ours = alignment_loss(
        loss, image, classes, positive, text, proto, TAU,
        symmetric=symmetric, bg_negatives=bg_negatives,
    )  # fmt: skip
    text_proto = text if bg_negatives else text[:CLASSES]
    first = second = 0.0
    for i in range(PAIRS):
        own = text[classes[i]]
        if loss == "crossmodal":
            first += slow_cross_entropy(image[i], text_proto, int(positive[i]), TAU)
            second += slow_cross_entropy(own, proto, int(classes[i]), TAU)
        else:
            first += slow_cross_entropy(image[i], proto, int(positive[i]), TAU)
            second += slow_cross_entropy(own, text_proto, int(classes[i]), TAU)
    wanted = (first + second) / 2 / PAIRS if symmetric else first / PAIRS
    torch.testing.assert_close(ours, wanted)


def test_feature_loss_by_hand():
    image, classes, positive, text, proto = batch()
    ours = alignment_loss("feature", image, classes, positive, text, proto, TAU)
    wanted = 0.0
    for i in range(PAIRS):
        own = text[classes[i]]
        wanted += 1 - image[i] @ own / (image[i].norm() * own.norm())
    torch.testing.assert_close(ours, wanted / PAIRS)


def test_background_loss_by_hand():
    image, _, _, text, _ = batch()
    word = torch.tensor([3, 4, 3, 3, 4, 4, 3])
    wanted = sum(slow_cross_entropy(image[i], text, int(word[i]), TAU) for i in range(PAIRS))
    torch.testing.assert_close(background_loss(image, word, text, TAU), wanted / PAIRS)


def test_background_loss_with_prototypes_by_hand():
    """K = C + M: half as today, half the texts against image prototypes of all C + M rows."""
    image, _, _, text, _ = batch()
    prototypes = unit(randn(11, WORDS, OUT).to(text))
    word = torch.tensor([3, 4, 3, 3, 4, 4, 3])
    wanted = 0.0
    for i in range(PAIRS):
        own = text[word[i]]
        wanted += slow_cross_entropy(image[i], text, int(word[i]), TAU)
        wanted += slow_cross_entropy(own, prototypes, int(word[i]), TAU)
    ours = background_loss(image, word, text, TAU, image_prototypes=prototypes)
    torch.testing.assert_close(ours, wanted / 2 / PAIRS)


def test_background_words_by_a_loop():
    background, text = randn(0, 6, DIM), unit(randn(1, WORDS, DIM))
    found = background_words(background, text, CLASSES)
    for row in range(6):
        cosines = {word: float(background[row] @ text[word]) for word in range(CLASSES, WORDS)}
        assert int(found[row]) == max(cosines, key=cosines.__getitem__)


def gradients(loss: str, **options: bool) -> dict[str, float]:
    """Largest gradient that reaches each leaf."""
    image, classes, positive, text, proto = batch()
    leaves = {"image": image, "text": text, "proto": proto, "tau": torch.tensor(TAU)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    value = alignment_loss(
        loss, image, classes, positive, text, proto.detach(), leaves["tau"], **options
    )
    value.backward()
    return {
        name: 0.0 if leaf.grad is None else float(leaf.grad.abs().max())
        for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("loss", ["crossmodal", "in_modal"])
def test_the_first_term_reaches_isa_and_the_second_tsa(loss):
    first = gradients(loss, symmetric=False)
    assert first["image"] > 1e-3
    assert first["tau"] > 1e-3
    assert first["text"] == 0
    assert gradients(loss, symmetric=True)["text"] > 1e-3


def test_the_feature_loss_reaches_both_heads_and_no_temperature():
    found = gradients("feature")
    assert found["image"] > 1e-3
    assert found["text"] > 1e-3
    assert found["tau"] == 0


def test_background_texts_are_never_moved():
    """They are negatives, detached, in every prototype loss and in the background loss."""
    image, classes, positive, text, proto = batch()
    text.requires_grad_()
    alignment_loss("crossmodal", image, classes, positive, text, proto, TAU).backward()
    assert text.grad[CLASSES:].abs().max() == 0
    assert text.grad[:CLASSES].abs().max() > 0
    text.grad = None
    background_loss(image.requires_grad_(), torch.full((PAIRS,), 3), text, TAU).backward()
    assert text.grad is None
    assert image.grad.abs().max() > 0


def test_text_gradient_moves_every_text_without_a_text_term():
    image, classes, positive, text, proto = batch()
    text.requires_grad_()
    alignment_loss(
        "crossmodal", image, classes, positive, text, proto, TAU,
        symmetric=False, text_gradient=True,
    ).backward()  # fmt: skip
    assert (text.grad.abs().amax(1) > 1e-6).all()
    text.grad = None
    background_loss(image, torch.full((PAIRS,), CLASSES), text, TAU, text_gradient=True).backward()
    assert (text.grad.abs().amax(1) > 1e-6).all()


def test_background_prototypes_pull_the_words_of_the_pairs():
    image, _, _, text, _ = batch()
    text.requires_grad_()
    word = torch.full((PAIRS,), CLASSES)
    prototypes = unit(randn(11, WORDS, OUT).to(text))
    background_loss(image, word, text, TAU, image_prototypes=prototypes).backward()
    moved = text.grad.abs().amax(1) > 1e-6
    assert moved.nonzero().flatten().tolist() == [CLASSES]


@pytest.mark.parametrize("depth", [1, 2])
def test_only_a_head_of_one_layer_lets_pooling_and_projecting_change_places(depth):
    """MLP(Σ w x) = Σ w MLP(x) for weights of sum 1: Eq. 1 and 2 in either order."""
    torch.manual_seed(0)
    head = Projector(DIM, OUT, hidden=8, depth=depth)
    head(randn(2, 40, DIM))  # BatchNorm has seen something
    head.eval().requires_grad_(False)
    patches, weights = randn(3, 6, DIM), randn(4, 1, 6).softmax(-1)
    gap = (head.mlp(weights @ patches) - weights @ head.mlp(patches)).abs().max()
    assert (float(gap) < 1e-5) == (depth == 1)


def slope(value, x: Tensor, at: tuple[int, ...], step: float = 1e-6) -> float:
    moved = torch.zeros_like(x)
    moved[at] = step
    with torch.no_grad():
        return ((value(x + moved) - value(x - moved)) / (2 * step)).item()


@pytest.mark.parametrize("loss", ["crossmodal", "in_modal", "feature"])
def test_gradients_equal_finite_differences(loss):
    image, classes, positive, text, proto = batch()
    image, text, proto = image.double(), text.double(), proto.double()
    tau = torch.tensor(TAU, dtype=torch.float64)

    def value(image: Tensor = image, text: Tensor = text, tau: Tensor = tau) -> Tensor:
        return alignment_loss(loss, image, classes, positive, text, proto, tau)

    leaves = [x.clone().requires_grad_() for x in (image, text, tau)]
    value(*leaves).backward()
    for at in [(0, 0), (3, 2), (6, 5)]:
        wanted = slope(lambda x: value(image=x), image, at)
        assert leaves[0].grad[at].item() == pytest.approx(wanted, abs=1e-7)
    if loss == "feature":  # no prototypes, so nothing of T' is held
        for at in [(0, 0), (2, 5)]:
            wanted = slope(lambda x: value(text=x), text, at)
            assert leaves[1].grad[at].item() == pytest.approx(wanted, abs=1e-7)
    else:
        wanted = slope(lambda x: value(tau=x), tau, ())
        assert leaves[2].grad.item() == pytest.approx(wanted, abs=1e-7)


def test_text_gradient_of_the_crossmodal_loss_holds_the_prototypes():
    """TSA learns from P_I only: P_T is a buffer, though it has the same numbers as T'."""
    image, classes, positive, text, proto = batch()
    text, proto = text.double(), proto.double()
    leaf = text.clone().requires_grad_()
    alignment_loss("crossmodal", image.double(), classes, positive, leaf, proto, TAU).backward()

    def second(text: Tensor) -> Tensor:
        return prototype_loss(prototype_similarity(text[classes], proto, TAU), classes) / 2

    for at in [(0, 0), (1, 3), (2, 5)]:
        assert leaf.grad[at].item() == pytest.approx(slope(second, text, at), abs=1e-7)


def test_one_step_along_the_gradient_lowers_the_loss_of_real_heads():
    torch.manual_seed(0)
    alignment = Alignment(*heads())
    v, t = randn(0, PAIRS, DIM), randn(1, WORDS, DIM)
    _, classes, _, _, proto = batch()

    def value() -> Tensor:
        return alignment_loss(
            "crossmodal", alignment.isa(v), classes, classes, alignment.tsa(t), proto,
            alignment.temperature,
        )  # fmt: skip

    optimiser = torch.optim.SGD(alignment.parameters(), lr=1e-3)
    before = value()
    before.backward()
    assert all(p.grad is not None for p in alignment.parameters())
    optimiser.step()
    assert value() < before
