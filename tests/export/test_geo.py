"""Masks of georeferenced photographs: where they lie, and what becomes of every pixel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ssrseg.data.csv_lines import csv_line, csv_rows
from ssrseg.data.files import content_digest
from ssrseg.data.stamped_mask import write_mask
from ssrseg.export.run import export_masks
from ssrseg.manifest import COLUMNS

rasterio = pytest.importorskip("rasterio")

CLASSES = ("building", "forêt")
UTM = "EPSG:32633"
HEIGHT, WIDTH = 70, 90
UPRIGHT = rasterio.transform.Affine(0.5, 0, 500_000, 0, -0.5, 4_600_000)


def mask_of(seed: int = 0) -> np.ndarray:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[5:40, 10:60] = 1
    ids[15:25, 20:30] = 0  # a hole
    ids[18:20, 22:24] = 2  # an island in it
    ids[50:, 70:] = 2
    ids[60:, :8] = 255
    ids[41, 61] = 1  # a pixel of its own, at the corner of nothing
    return ids


def folder_of(
    root: Path, *, crs: object = UTM, transform: object = None, point: bool = False
) -> Path:
    """A folder of masks with one GeoTIFF photograph.

    Args:
        point: Its header gives coordinates of the middle of pixels.
    """
    transform = transform or UPRIGHT
    photo = root / "photos" / "scene.tif"
    photo.parent.mkdir(parents=True)
    rgb = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH), np.uint8)
    form = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8"}
    with rasterio.open(photo, "w", crs=crs, transform=transform, **form) as file:
        file.write(rgb)
        file.update_tags(AREA_OR_POINT="Point" if point else "Area")
    out = root / "masks"
    write_mask(out / "masks" / "scene.png", torch.from_numpy(mask_of()), "it")
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    row = dict.fromkeys(COLUMNS, "") | {
        "name": "scene", "mask": "masks/scene.png", "image": "../photos/scene.tif",
        "photo": content_digest(photo),
    }  # fmt: skip
    lines = csv_line(COLUMNS) + csv_line(tuple(row.values()))
    (out / "manifest.csv").write_text(lines, encoding="utf-8")
    return out


def test_a_geotiff_lies_where_its_photograph_does(tmp_path: Path) -> None:
    transform = rasterio.transform.Affine(0.5, 0.1, 500_000, 0.1, -0.5, 4_600_000)  # turned a bit
    folder = folder_of(tmp_path, transform=transform)
    result = export_masks(folder, "geotiff")
    assert result.written == 1 and result.failures == ()
    with rasterio.open(result.out / "scene.tif") as file:
        assert file.crs == rasterio.crs.CRS.from_string(UTM)
        assert file.transform == transform
        assert file.count == 1 and file.dtypes == ("uint8",) and file.nodata == 255
        assert (file.read(1) == mask_of()).all()
        assert file.colormap(1)[1][:3] == (128, 0, 0)
        assert file.tags()["class_2"] == "forêt" and file.descriptions == ("class id",)
    rows = csv_rows((result.out / "classes.csv").read_text(encoding="utf-8"))
    assert rows == [["id", "class"], ["0", "background"], ["1", "building"], ["2", "forêt"]]


def signed_area(ring: list[list[float]]) -> float:
    x, y = (np.array(ring, float) - np.array(ring[0], float)).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


Affine = rasterio.transform.Affine


@pytest.mark.parametrize(
    ("crs", "transform", "point"),
    [
        (UTM, UPRIGHT, False),
        (UTM, Affine(0.5, 0, 500_000, 0, 0.5, 4_600_000), False),  # the first row is the south
        (UTM, UPRIGHT, True),
        ("EPSG:4326", Affine(1e-5, 0, 15, 0, -1e-5, 41.55), False),
        ("EPSG:3035", Affine(0.5, 0.1, 4_738_000, 0.1, -0.5, 2_060_000), False),
    ],
)
def test_polygons_come_back_to_the_pixel(
    tmp_path: Path, crs: str, transform: rasterio.transform.Affine, point: bool
) -> None:
    folder = folder_of(tmp_path, crs=crs, transform=transform, point=point)
    with rasterio.open(tmp_path / "photos" / "scene.tif") as file:
        assert file.transform == transform
    with tifffile.TiffFile(tmp_path / "photos" / "scene.tif") as file:
        tags = file.pages[0].geotiff_tags
    assert tags["GTRasterTypeGeoKey"] == (2 if point else 1)
    result = export_masks(folder, "geotiff")
    with rasterio.open(result.out / "scene.tif") as file:
        assert file.transform == transform and file.crs == rasterio.crs.CRS.from_string(crs)
        assert (file.read(1) == mask_of()).all()
    result = export_masks(folder, "geojson")
    table = json.loads((result.out / "scene.geojson").read_text(encoding="utf-8"))
    assert table["type"] == "FeatureCollection" and "crs" not in table
    features = table["features"]
    assert sorted(each["properties"]["id"] for each in features) == [1, 1, 2, 2]
    assert {each["properties"]["class"] for each in features} == {"building", "forêt"}
    # RFC 7946: longitude first, outer rings counter-clockwise, closed
    back = []
    for each in features:
        assert each["geometry"]["type"] == "Polygon"
        outer, *holes = each["geometry"]["coordinates"]
        assert all(14.9 < x < 15.1 and 41.4 < y < 41.7 for x, y in outer)
        assert outer[0] == outer[-1] and signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in holes)
        geometry = rasterio.warp.transform_geom("EPSG:4326", crs, each["geometry"])
        back.append((geometry, each["properties"]["id"]))
    holes = sorted(len(each["geometry"]["coordinates"]) - 1 for each in features)
    assert holes == [0, 0, 0, 1]
    found = rasterio.features.rasterize(back, (HEIGHT, WIDTH), transform=transform, dtype="uint8")
    assert (found == np.where(mask_of() == 255, 0, mask_of())).all()


def test_polygons_beyond_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    whole = (export_masks(folder, "geojson").out / "scene.geojson").read_text()
    monkeypatch.setattr("ssrseg.export.geo._TOGETHER", 3)
    assert (export_masks(folder, "geojson").out / "scene.geojson").read_text() == whole


SITE = 'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


@pytest.mark.parametrize(
    ("crs", "transform", "reason"),
    [
        (SITE, UPRIGHT, "from which nothing leads to WGS 84"),
        ("EPSG:4326", UPRIGHT, "a corner at 500000, 4600000, which is nowhere on the earth"),
        (UTM, Affine(0.5, 0, 5e8, 0, -0.5, 9e7), "coordinate system, EPSG:32633|system EPSG:32633"),
    ],
)
def test_a_scene_that_has_no_longitude_ends_nothing(
    tmp_path: Path, crs: str, transform: object, reason: str
) -> None:
    folder = folder_of(tmp_path, crs=rasterio.crs.CRS.from_string(crs), transform=transform)
    good = tmp_path / "photos" / "good.tif"
    with rasterio.open(tmp_path / "photos" / "scene.tif") as file:
        rgb = file.read()
    form = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8"}
    with rasterio.open(good, "w", crs=UTM, transform=UPRIGHT, **form) as file:
        file.write(rgb)
    write_mask(folder / "masks" / "zgood.png", torch.from_numpy(mask_of()), "it")
    row = dict.fromkeys(COLUMNS, "") | {
        "name": "zgood", "mask": "masks/zgood.png", "image": "../photos/good.tif",
        "photo": content_digest(good),
    }  # fmt: skip
    with (folder / "manifest.csv").open("a", encoding="utf-8") as table:
        table.write(csv_line(tuple(row.values())))
    result = export_masks(folder, "geojson")
    (failure,) = result.failures
    assert re.search(reason, failure.reason) and "scene.tif" in failure.reason
    assert result.written == 1 and (result.out / "zgood.geojson").is_file()
    assert export_masks(folder, "geotiff").written == 2


def test_photographs_without_a_place_are_left_out_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", crs=None)
    assert export_masks(folder, "geotiff").written == 1
    result = export_masks(folder, "geojson")
    (failure,) = result.failures
    assert result.written == 0 and "has no coordinate system (CRS)" in failure.reason
    folder = folder_of(tmp_path / "b")
    photo = tmp_path / "b" / "photos" / "scene.tif"
    with rasterio.open(photo) as file:
        rgb = file.read().transpose(1, 2, 0)
    Image.fromarray(rgb).save(photo)
    for to in ("geotiff", "geojson"):
        (failure,) = export_masks(folder, to, tmp_path / to).failures
        assert "says nowhere where on the earth it is" in failure.reason
