"""Each format through the reader of a program that it is for; `make readers` installs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_masks import PHOTOS, despeckled, write_masks
from readers.round_trip import KEEPS_UNDECIDED, PYTHON, TRIPS, read_back

from ssrseg.export.outlines import SPECK
from ssrseg.export.run import export_masks

pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason="needs the readers of other programs: make readers"
)


@pytest.mark.parametrize(("to", "reader", "tolerance"), TRIPS)
def test_a_reader_sees_the_masks(
    tmp_path: Path, to: str, reader: str, tolerance: float | None
) -> None:
    truth = write_masks(tmp_path)
    result = export_masks(tmp_path / "masks", to, tmp_path / to, tolerance=tolerance)
    found = read_back(reader, result.out, result.photos, tmp_path / "read")
    assert found.keys() == {file.rpartition(".")[0] for file in PHOTOS}
    same = 0
    for file, ids in truth.items():
        seen = found[file.rpartition(".")[0]]
        if to not in KEEPS_UNDECIDED:
            ids = np.where(ids == 255, 0, ids).astype(np.uint8)
        if seen.size == 0:  # Label Studio has no size where nothing is marked
            assert not ids.any()
        elif tolerance is None:
            assert (seen == ids).all()
        elif tolerance == 0:
            assert (seen == _kept(ids)).all()
        else:
            assert seen.shape == ids.shape
            same += int((seen == _kept(ids)).sum())
    if tolerance:  # a pixel along each border counts for much in so small pictures
        pixels = sum(height * width for height, width in PHOTOS.values())
        assert 1 - 0.08 * tolerance < same / pixels < 1


def _kept(ids: np.ndarray) -> np.ndarray:
    """What polygons hold of a mask: parts and holes below a speck are left out."""
    kept = np.zeros_like(ids)
    for each in np.unique(ids):
        if each:
            kept[despeckled(ids == each, SPECK)] = each
    return kept
