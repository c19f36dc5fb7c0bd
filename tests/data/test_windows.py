from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssrseg.data.windows import WindowBatch, WindowDraws, has_views, save_views
from ssrseg.errors import DataError

PATCH, SIDE = 4, 6
GRIDS = [((8, 10), (5, 7)), ((3, 9), (2, 6)), ((6, 6), (4, 4))]  # (whole, mirrored and smaller)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Tokens that say image, view, row and column; masks whose pixels say their patch."""
    found = []
    for image, grids in enumerate(GRIDS):
        views = []
        for view, (rows, columns) in enumerate(grids):
            place = torch.stack(
                [
                    torch.full((rows, columns), image),
                    torch.full((rows, columns), view),
                    *torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"),
                ],
                -1,
            )
            views.append(place[:, :, None].expand(-1, -1, 2, -1).half())
        rows, columns = grids[0]
        patches = torch.arange(rows * columns).reshape(rows, columns).to(torch.uint8)
        mask = patches.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)
        found.append(tmp_path / "features" / f"{image}.safetensors")
        save_views(found[-1], views, mask, f"image {image}")
    return found


def windows(
    files: list[Path], *, flip: bool = True, seed: int = 0, workers: int = 0
) -> WindowDraws:
    return WindowDraws(files, SIDE, PATCH, flip=flip, seed=seed, workers=workers)


def parts(batch: WindowBatch) -> list[Tensor]:
    assert batch.inside is not None
    return [batch.tokens, batch.mask, batch.inside]


def test_a_window_is_a_piece_of_a_view_with_its_mask(files: list[Path]) -> None:
    draws, seen = windows(files), set()
    for draw in range(120):
        tokens, mask, inside = draws[draw]
        image, view = int(tokens[0, 0, 0]), int(tokens[0, 0, 1])
        assert image == draws.row(draw)
        (rows, columns), (whole_rows, whole_columns) = GRIDS[image][view], GRIDS[image][0]
        grid = tokens.view(SIDE, SIDE, 2, 4)
        top, left = grid[0, 0, 0, 2:].tolist()
        there = inside.view(SIDE, SIDE)
        assert there.any(1).sum() == min(SIDE, rows)
        assert there.any(0).sum() == min(SIDE, columns)
        for row in range(SIDE):
            for column in range(SIDE):
                # padding repeats the patch at the edge
                expected = [min(top + row, rows - 1), min(left + column, columns - 1)]
                assert grid[row, column, 1].tolist() == [image, view, *expected]
                pixels = mask[PATCH * row :, PATCH * column :][:PATCH, :PATCH]
                if not there[row, column]:
                    assert (pixels == 255).all()
                elif view == 0:
                    assert (pixels == (top + row) * whole_columns + left + column).all()
                else:  # smaller, and mirrored
                    across = (columns - (left + column) - 0.5) / columns * whole_columns
                    down = (top + row + 0.5) / rows * whole_rows
                    nearest = pixels.long()
                    assert (nearest % whole_columns - across + 0.5).abs().max() < 1.6
                    assert (nearest // whole_columns - down + 0.5).abs().max() < 1.6
        seen.add((image, view, top, left))
    assert len({(image, view) for image, view, _, _ in seen}) == 6
    assert len({place for place in seen if place[:2] == (0, 0)}) > 8


def test_without_flip_no_view_is_mirrored(files: list[Path]) -> None:
    differs = 0
    for draw in range(40):
        tokens, mask, _ = windows(files)[draw]
        _, plain, _ = windows(files, flip=False)[draw]
        if tokens[0, 0, 1] == 0:
            assert torch.equal(mask, plain)
        differs += not torch.equal(mask, plain)
    assert differs > 10


def test_a_draw_depends_on_its_number_only(files: list[Path]) -> None:
    whole = list(windows(files).loader(0, 12, 3))
    later = list(windows(files).loader(6, 12, 3))
    helped = list(windows(files, workers=2).loader(0, 12, 3))
    for one, other in zip(whole[2:] + whole, later + helped, strict=True):
        assert all(map(torch.equal, parts(one), parts(other)))
        assert one.rows == other.rows
    other_seed = next(windows(files, seed=1).loader(0, 3, 3))
    assert not torch.equal(whole[0].tokens, other_seed.tokens)


def test_every_image_once_per_pass(files: list[Path]) -> None:
    draws = windows(files)
    for epoch in range(4):
        assert sorted(map(draws.row, range(3 * epoch, 3 * epoch + 3))) == [0, 1, 2]


def test_split(files: list[Path]) -> None:
    batch = next(windows(files).loader(0, 5, 5))
    pieces = list(batch.split(2))
    assert [len(piece.tokens) for piece in pieces] == [2, 2, 1]
    assert sum((piece.draws for piece in pieces), ()) == batch.draws == tuple(range(5))
    assert {piece.rows for piece in pieces} == {batch.rows}  # those of the whole batch
    assert torch.equal(torch.cat([piece.mask for piece in pieces]), batch.mask)
    full = windows(files[:1])
    assert all(full.join([draw], [draw]).inside is None for draw in range(9) if full[draw][2].all())


def test_a_file_is_whole_or_made_anew(files: list[Path]) -> None:
    path = files[0]
    assert has_views(path, "image 0")
    assert not has_views(path, "image 1")
    assert not has_views(path.with_name("none.safetensors"), "image 0")
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b"", b"x" * 40):
        path.write_bytes(damaged)
        assert not has_views(path, "image 0")


def test_a_file_that_is_gone_is_named(files: list[Path]) -> None:
    files[1].unlink()
    draws = windows(files)
    gone = next(draw for draw in range(3) if draws.row(draw) == 1)
    with pytest.raises(DataError, match=r"1\.safetensors, cached features, .*The same command"):
        draws[gone]
    with pytest.raises(DataError, match=r"1\.safetensors"):
        list(windows(files, workers=1).loader(0, 3, 3))
