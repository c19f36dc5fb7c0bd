"""Masks with the place on the earth that their photographs have: GeoTIFF and GeoJSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from ssrseg.console import printable
from ssrseg.data.class_ids import voc_palette
from ssrseg.data.csv_lines import csv_line
from ssrseg.data.large import quiet_rasterio, read_header
from ssrseg.errors import DataError
from ssrseg.export.output import Output
from ssrseg.export.source import Mask
from ssrseg.method.pseudo_mask import IGNORE

_WGS84 = "EPSG:4326"
_DIGITS = 8  # of a degree: about a millimetre
_ROWS = 512  # a row of GeoTIFF's tiles
_TOGETHER = 4096  # polygons that are transformed in one call


def check_geotiff(mask: Mask) -> None:
    """Raise DataError unless the photograph of a mask says where on the earth it is."""
    _place(mask)


def write_geotiff(masks: Iterable[Mask], output: Output, classes: tuple[str, ...]) -> None:
    """Write NAME.tif, whose one band holds class ids, with the georeference of its photograph.

    Undecided pixels are nodata. Colours are VOC's; classes.csv and the tags ``class_1``, ... name
    the ids.
    """
    with quiet_rasterio() as rasterio:
        for mask in masks:
            crs, transform = _place(mask)
            height, width = mask.ids.shape
            form = {
                "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8",
                "nodata": IGNORE, "crs": crs, "transform": transform, "compress": "deflate",
                "tiled": True, "blockxsize": _ROWS, "blockysize": _ROWS, "BIGTIFF": "IF_SAFER",
            }  # fmt: skip
            place = f"{mask.name}.tif"
            with output.file(place) as path, rasterio.open(path, "w", **form) as file:
                for top in range(0, height, _ROWS):
                    rows = mask.ids[top : top + _ROWS]
                    file.write(rows, 1, window=((top, top + len(rows)), (0, width)))
                file.write_colormap(1, dict(enumerate(map(tuple, voc_palette().tolist()))))
                file.update_tags(**{f"class_{at}": name for at, name in enumerate(classes, 1)})
                file.set_band_description(1, "class id")
    _write_classes(output, classes)


def check_geojson(mask: Mask) -> None:
    """Raise DataError unless the corners of a photograph have a longitude and a latitude, too."""
    crs, transform = _place(mask)
    if crs is None:
        raise DataError(
            f"{mask.photo} has no coordinate system (CRS), which GeoJSON needs. Assign it, as with"
            " gdal_edit.py -a_srs EPSG:CODE, or export to geotiff."
        )
    height, width = mask.ids.shape
    a, b, c, d, e, f, *_ = transform
    corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, width) for y in (0, height)]
    try:
        with quiet_rasterio():
            found = _to_wgs84(crs, corners)
    except Exception as error:  # of GDAL's, which have no public base
        raise DataError(
            f"{mask.photo} has the coordinate system {_called(crs)}, from which nothing leads to"
            f" WGS 84, which GeoJSON needs ({str(error)[:200]}). Export to geotiff, or transform"
            " the photograph into another one."
        ) from error
    if not (np.isfinite(found).all() and (np.abs(found) <= (180, 90)).all()):
        x, y = corners[int(np.argmax(~(np.abs(found) <= (180, 90)).all(1)))]
        raise DataError(
            f"{mask.photo} has a corner at {x:.10g}, {y:.10g}, which is nowhere on the earth in its"
            f" coordinate system, {_called(crs)}. Assign the right one, as with gdal_edit.py -a_srs"
            " EPSG:CODE, or export to geotiff."
        )


def _to_wgs84(crs: Any, places: list[tuple[float, float]]) -> Float[np.ndarray, "places 2"]:
    """Longitude and latitude."""
    from rasterio.warp import transform

    return np.array(transform(crs, _WGS84, *zip(*places, strict=True))).T


def _called(crs: Any) -> str:
    return printable(str(crs.to_string()))[:80]


def write_geojson(masks: Iterable[Mask], output: Output, classes: tuple[str, ...]) -> None:
    """Write NAME.geojson: each part of a class as a polygon in WGS 84, holes included (RFC 7946).

    Outlines run along the edges of pixels, so nothing of the mask is lost. Undecided pixels are in
    no polygon.
    """
    with quiet_rasterio():
        for mask in masks:
            with output.text(f"{mask.name}.geojson") as file:
                file.write('{"type": "FeatureCollection", "features": [')
                for number, feature in enumerate(_features(mask, classes)):
                    text = json.dumps(feature, ensure_ascii=True)
                    file.write(f"{',' if number else ''}\n{text}")
                file.write("\n]}\n")
    _write_classes(output, classes)


def _features(mask: Mask, classes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    crs, transform = _place(mask)
    shown = (mask.ids != 0) & (mask.ids != IGNORE)
    parts = iter(shapes(mask.ids, mask=shown, connectivity=4, transform=transform))
    while some := list(islice(parts, _TOGETHER)):
        geometries = transform_geom(
            crs,
            _WGS84,
            [geometry for geometry, _ in some],
            antimeridian_cutting=True,
            precision=_DIGITS,
        )
        for geometry, (_, value) in zip(geometries, some, strict=True):
            yield _feature(geometry, int(value), classes)


def _feature(geometry: dict[str, Any], number: int, classes: tuple[str, ...]) -> dict[str, Any]:
    several = geometry["type"] == "MultiPolygon"  # cut at the antimeridian
    polygons = geometry["coordinates"] if several else [geometry["coordinates"]]
    polygons = [[_turned(ring, inner=bool(place)) for place, ring in enumerate(rings)]
                for rings in polygons]  # fmt: skip
    return {
        "type": "Feature",
        "properties": {"class": classes[number - 1], "id": number},
        "geometry": {"type": geometry["type"], "coordinates": polygons if several else polygons[0]},
    }


def _turned(ring: list[list[float]], *, inner: bool) -> list[list[float]]:
    """An outer ring counter-clockwise, an inner one clockwise, as RFC 7946 wants them."""
    x, y = np.array(ring, float).T
    x, y = x - x[0], y - y[0]  # the differences are small against the coordinates
    doubled = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
    return ring[::-1] if (doubled > 0) == inner else ring


def _place(mask: Mask) -> tuple[Any, Any]:
    """Coordinate system, or None, and affine transform of a photograph; DataError without any."""
    assert mask.photo is not None
    with quiet_rasterio() as rasterio:
        try:
            turned = read_header(mask.photo).turned
            with rasterio.open(mask.photo) as file:
                crs, transform, size = file.crs, file.transform, (file.height, file.width)
        except OSError as error:
            raise DataError(
                f"{mask.photo} has no georeference that GDAL reads ({error})."
            ) from error
    if turned or size != mask.ids.shape:
        raise DataError(
            f"{mask.photo} is stored turned (orientation tag), so that its georeference is not that"
            " of its mask. Save it upright."
        )
    if transform.is_identity:
        raise DataError(
            f"{mask.photo} says nowhere where on the earth it is: it has no transform from pixels"
            " to coordinates. Georeference it, or export to coco or labelme, in pixels."
        )
    return crs, transform


def _write_classes(output: Output, classes: tuple[str, ...]) -> None:
    lines = [("id", "class"), (0, "background"), *enumerate(classes, 1)]
    output.write("classes.csv", "".join(map(csv_line, lines)))
