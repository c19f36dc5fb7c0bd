from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ssrseg.method.prototypes import confident_pairs, image_prototypes, positive_index


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1)


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


FEATURES = torch.tensor([[1.0, 0.1, 0.0], [0.1, 1.0, 0.2], [0.0, 0.6, 0.5]])
CLASSES = torch.tensor([0, 0, 2])
LABELS = torch.tensor([[True, False, False], [True, False, True], [False, True, True]])


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [("class", [0, 0, 2]), ("cluster", [0, 1, 1]), ("cluster_present", [0, 2, 1])],
)
def test_positive_index_rules(rule, wanted):
    assert positive_index(FEATURES, 5 * torch.eye(3), CLASSES, LABELS, rule).tolist() == wanted


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


def test_confidence_is_clips_softmax_over_present_and_background_texts():
    pooled, text = randn(0, 2, 3, 4), randn(1, 6, 4)  # classes 0 .. 3, backgrounds 4 and 5
    present = torch.tensor([[2, 0, -1], [1, -1, -1]])
    cosine = unit(pooled) @ unit(text).T
    probabilities = []
    for b, slot, own, words in ((0, 0, 2, (0, 2)), (0, 1, 0, (0, 2)), (1, 0, 1, (1,))):
        e = (3.0 * cosine[b, slot]).exp()
        probabilities.append(float(e[own] / sum(e[w] for w in (*words, 4, 5))))
    low, middle, high = sorted(probabilities)
    assert high - middle > 1e-3 < middle - low
    for threshold in (low - 1e-4, low + 1e-4, middle + 1e-4, high + 1e-4):
        kept = confident_pairs(pooled, present, text, 3.0, 4, min_confidence=threshold)
        assert kept[present >= 0].tolist() == [p > threshold for p in probabilities]
        assert not kept[present < 0].any()


def test_a_class_that_the_label_rules_out_takes_no_confidence():
    text = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])  # two look-alikes, a background
    pooled = torch.tensor([[[1.0, 0.0]]])
    alone = confident_pairs(pooled, torch.tensor([[0]]), text, 100.0, 2, min_confidence=0.95)
    assert alone.tolist() == [[True]]
    both = confident_pairs(
        pooled.expand(1, 2, 2), torch.tensor([[0, 1]]), text, 100.0, 2, min_confidence=0.95
    )
    assert both.tolist() == [[False, False]]
