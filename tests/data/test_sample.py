from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssrseg.data.sample import LabelledImages, Sample


def test_labels_as_a_table():
    samples = tuple(
        Sample(name, Path(f"{name}.jpg"), labels, None)
        for name, labels in (("a", (0, 2)), ("b", ()), ("c", (1,)))
    )
    data = LabelledImages(Path(), ("cat", "dog", "cow"), samples)
    assert len(data) == 3
    assert data.labels.dtype == torch.bool
    assert data.labels.int().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert LabelledImages(Path(), ("cat",), ()).labels.shape == (0, 1)


def test_a_label_beyond_the_classes_is_refused():
    data = LabelledImages(Path(), ("cat",), (Sample("a", Path("a.jpg"), (1,), None),))
    with pytest.raises(IndexError):
        _ = data.labels
