"""Figure 6 of the paper, and the modality gap of Figure 1b: t-SNE; needs matplotlib and sklearn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ssrseg.errors import PackageError
from ssrseg.paper.embedding import CLIP, CMPA, UNTRAINED, Embedding, Space
from ssrseg.paper.grid import LINE, MARGIN, NORMAL, SMALL, Axes, Figure, place
from ssrseg.paper.separation import Separation, separation

try:
    from sklearn.manifold import TSNE
except ImportError as error:  # an optional package
    raise PackageError(
        f"t-SNE is scikit-learn's, which cannot be imported here ({error}). Install it with"
        ' pip install "ssrseg[figures]".'
    ) from error

PERPLEXITY = 30.0
SEED = 0

COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#2fb8d6", "#f032e6", "#9acd1e",
    "#f29cb7", "#2f8f8a", "#b08ae8", "#9a6324", "#d9b800", "#800000", "#5fd0a0", "#808000",
    "#e0a878", "#000075", "#8f8f8f", "#000000",
)  # fmt: skip
"""Twenty colours as different as twenty can be."""

PANEL, LABEL = 3.3, 0.115
"""Inches: side of a t-SNE panel, height of a class's name in it."""

LABEL_STEPS = 12
"""So many lines at most is a name moved from where its class lies."""


@dataclass(frozen=True)
class Cloud:
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


def cloud(space: Space, embedding: Embedding) -> Cloud:
    """T-SNE of the image features together with the texts of their classes (spec §13).

    Unit features, cosine metric, perplexity 30 or what few points allow, PCA start, seed 0.

    Args:
        space: Features of one space.
        embedding: For the classes of the pairs.
    """
    shown = embedding.classes.unique()
    points = np.concatenate([space.image.numpy(), space.text[shown].numpy()]).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    plane = TSNE(
        perplexity=min(PERPLEXITY, (len(points) - 1) / 3),
        init="pca",
        metric="cosine",
        random_state=SEED,
    ).fit_transform(points)
    n = len(space.image)
    return Cloud(
        plane[:n],
        plane[n:],
        embedding.classes.numpy(),
        tuple(shown.tolist()),
        separation(space.image, embedding.classes, space.text),
    )


def tsne_figure(
    embedding: Embedding, names: tuple[str, ...]
) -> tuple[Figure, dict[str, Separation]]:
    """Figure 6: (a) CLIP's features, (b) after CMPA; stars are texts.

    Args:
        embedding: With CMPA's space.
        names: Of all classes.

    Returns:
        The figure, and the numbers of every space, the untrained control's too.
    """
    clouds = {name: cloud(embedding.spaces[name], embedding) for name in (CLIP, CMPA)}
    numbers = {name: each.separation for name, each in clouds.items()}
    notes = {name: numbers_text(each) for name, each in numbers.items()}
    if UNTRAINED in embedding.spaces:
        space = embedding.spaces[UNTRAINED]
        numbers[UNTRAINED] = separation(space.image, embedding.classes, space.text)
        notes[CMPA] += f"\n(untrained projector: {numbers_text(numbers[UNTRAINED])})"
    shown = clouds[CLIP].shown
    rows = -(-(len(shown) + 1) // KEY_COLUMNS)
    footer = 2 * LINE + MARGIN + 1.2 * LINE * rows + MARGIN
    width, height = 2 * PANEL + 3 * MARGIN, PANEL + footer + 0.25
    figure = Figure(figsize=(width, height), dpi=200)
    titles = {CLIP: "(a) CLIP", CMPA: "(b) after CMPA"}
    for index, (name, each) in enumerate(clouds.items()):
        left = MARGIN + index * (PANEL + MARGIN)
        axes = place(figure, left, footer, PANEL, PANEL, name)
        axes.set_title(titles[name], fontsize=NORMAL + 1, pad=4)
        draw_cloud(axes, each, names)
        axes.set_xlabel(notes[name], fontsize=SMALL, labelpad=4)
    _key(figure, [names[index] for index in shown])
    return figure, numbers


KEY_COLUMNS = 8


def draw_cloud(axes: Axes, points: Cloud, names: tuple[str, ...], *, size: float = 7.0) -> None:
    """Points in the colours of their classes, stars for texts, names where a class lies."""
    for rank, index in enumerate(points.shown):
        own = points.image[points.classes == index]
        colour = COLOURS[rank]
        axes.scatter(own[:, 0], own[:, 1], s=size, color=colour, alpha=0.75, linewidths=0, zorder=2)
        axes.scatter(
            *points.text[rank], s=9 * size, color=colour, marker="*", edgecolors="black",
            linewidths=0.6, zorder=4,
        )  # fmt: skip
    axes.margins(0.05)
    _name_classes(axes, points, names)
    for spine in axes.spines.values():
        spine.set_color("0.7")


def _name_classes(axes: Axes, points: Cloud, names: tuple[str, ...]) -> None:
    """A class's name at the median of its points, moved up or down where another stands there."""
    wide, tall = axes.get_window_extent().size / axes.figure.dpi
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    taken: list[tuple[float, float, float]] = []  # centre and half a width, in inches
    for index in points.shown:
        middle = np.median(points.image[points.classes == index], axis=0)
        x = (middle[0] - left) / (right - left) * wide
        y = (middle[1] - low) / (high - low) * tall
        half = 0.03 * len(names[index]) + 0.03
        x = min(max(x, half), wide - half)
        steps = sorted(range(-LABEL_STEPS, LABEL_STEPS + 1), key=abs)
        free = (
            y + step * LABEL for step in steps
            if LABEL / 2 <= y + step * LABEL <= tall - LABEL / 2
            and all(abs(x - a) > half + h or abs(y + step * LABEL - b) >= 0.95 * LABEL
                    for a, b, h in taken)
        )  # fmt: skip
        y = next(free, y)
        taken.append((x, y, half))
        axes.text(
            x / wide, y / tall, names[index], transform=axes.transAxes, fontsize=SMALL,
            ha="center", va="center", zorder=5, parse_math=False,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.6, "lw": 0},
        )  # fmt: skip


def numbers_text(numbers: Separation) -> str:
    """The three numbers in a line."""
    return (
        f"silhouette {numbers.silhouette:.3f}   intra/inter {numbers.distance_ratio:.3f}"
        f"   modality gap {numbers.modality_gap:.3f}"
    )


def _key(figure: Figure, names: list[str]) -> None:
    from matplotlib.lines import Line2D

    dots = [
        Line2D([], [], linestyle="", marker="o", color=colour, markersize=4, label=name)
        for colour, name in zip(COLOURS, names, strict=False)
    ]
    star = Line2D(
        [], [], linestyle="", marker="*", color="white", markeredgecolor="black", markersize=7,
        label="text of the class",
    )  # fmt: skip
    figure.legend(
        handles=[*dots, star], loc="lower center", ncols=KEY_COLUMNS, frameon=False,
        fontsize=SMALL + 0.5, borderaxespad=0.4, handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip
