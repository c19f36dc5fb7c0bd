from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ssrseg.config import DataConfig
from ssrseg.data.images import as_photo, read_image
from ssrseg.data.large import (
    HeldImage,
    open_large,
    quiet_rasterio,
    read_header,
    shrunk,
    tiling_of,
)
from ssrseg.data.notices import say_again
from ssrseg.data.transforms import limit_side
from ssrseg.errors import DataError

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(autouse=True)
def nothing_said_before():
    say_again()


def picture(height=90, width=130, bands=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), bands))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


GEO = {
    33550: (33550, "d", 3, (0.5, 0.5, 0.0), True),
    33922: (33922, "d", 6, (0, 0, 0, 500000, 4600000, 0), True),
    34735: (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
}


def written(path, kind):
    rgb = picture()
    if kind == "png":
        Image.fromarray(rgb).save(path)
    elif kind == "grey.png":
        Image.fromarray(rgb[..., 0]).save(path)
    elif kind == "jpg":
        rows, columns = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
        smooth = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)
        Image.fromarray(smooth).save(path, quality=95)
    elif kind == "tif":
        tifffile.imwrite(path, rgb, photometric="rgb", tile=(32, 32), compression="zlib")
    elif kind == "deep.tif":
        tifffile.imwrite(path, rgb.astype(np.uint16) * 16 + 5, photometric="rgb", rowsperstrip=7)
    elif kind == "float.tif":
        values = rgb / np.float32(255)
        values[:20, :20] = -1
        tag = (42113, "s", 3, "-1", True)
        tifffile.imwrite(path, values, photometric="rgb", extratags=[tag])
    elif kind == "alpha.tif":
        opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
        opaque[:40] = 0
        values = np.dstack([rgb, opaque])
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"])
    elif kind == "palette.tif":
        colours = np.random.default_rng(1).integers(0, 65536, (3, 256)).astype(np.uint16)
        tifffile.imwrite(path, rgb[..., 0], photometric="palette", colormap=colours)
    elif kind == "cmyk.tif":
        Image.fromarray(rgb).convert("CMYK").save(path)
    elif kind == "alpha.png":
        Image.fromarray(np.dstack([rgb, rgb[..., :1]])).save(path)
    return path


KINDS = ["png", "grey.png", "jpg", "tif", "deep.tif", "float.tif", "alpha.tif", "palette.tif"]


@pytest.mark.parametrize("kind", [*KINDS, "cmyk.tif", "alpha.png"])
def test_windows_show_what_the_whole_shows(tmp_path, kind):
    path = written(tmp_path / f"a.{kind}", kind)
    whole = read_image(path)
    with open_large(path) as image:
        assert isinstance(image, HeldImage) == (kind in ("cmyk.tif", "alpha.png"))
        assert image.size == whole.shape[:2]
        for rows, columns in (((0, 50), (0, 60)), ((0, 50), (60, 130)), ((31, 90), (5, 6))):
            found = image.window(rows, columns)
            expected = whole[slice(*rows), slice(*columns)]
            # GDAL interpolates the halved colours of a JPEG in another way
            most = 4 if kind == "jpg" else 0
            assert (found.int() - expected.int()).abs().max() <= most


@pytest.mark.parametrize("bands", [(4, 2, 6), (1, 2, 3)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_of_a_window(tmp_path, bands, planar):
    values = picture(bands=6).astype(np.uint16) * 10
    values = values if planar == "contig" else values.transpose(2, 0, 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=planar)
    whole = read_image(path, (0.0, 2550.0), bands)
    with open_large(path, (0.0, 2550.0), bands) as image:
        assert torch.equal(image.window((10, 70), (3, 111)), whole[10:70, 3:111])
    with pytest.raises(DataError, match="nothing says which"), open_large(path):
        pass


@pytest.mark.parametrize("side", [40, 97, 129, 500])
def test_an_image_is_shrunk_some_rows_at_a_time(side):
    photo = torch.from_numpy(picture(301, 203))
    found, expected = shrunk(HeldImage(photo), side), limit_side(photo, side)
    assert found.shape == expected.shape
    assert (found.int() - expected.int()).abs().max() <= 1


def test_facts_of_headers(tmp_path):
    geo = tmp_path / "a.tif"
    tifffile.imwrite(geo, picture(), photometric="rgb", extratags=[*GEO.values()])
    facts = read_header(geo)
    assert facts.size == (90, 130) and facts.georeferenced and not facts.exposed
    camera = tmp_path / "b.jpg"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[33434] = (1, 250)
    exif[274] = 6
    Image.fromarray(picture()).save(camera, exif=exif)
    facts = read_header(camera)
    assert facts.size == (130, 90) and facts.exposed and not facts.georeferenced
    assert not facts.driver  # turned: read as a whole


def huge_png(path, height, width):
    """A PNG of one colour, whose rows are there, in a few kilobytes."""
    row = bytes(1 + width)
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_what_is_cut_by_itself(tmp_path, capsys):
    auto = DataConfig()
    huge_png(tmp_path / "scene.png", 60, 8000)
    found = tiling_of(tmp_path / "scene.png", auto, 640)
    assert found.size == (60, 8000) and len(found) == len(found.columns) == 17
    said = capsys.readouterr().err
    assert "has 8,000 x 60 pixels: it is seen in 17 tiles of 640 x 640 (data.tile = auto)" in said
    assert "data.tile=none sees the whole at 640 pixels, where masks have stairs of 12." in said
    # an ordinary photograph, and a large one that a camera exposed
    Image.new("RGB", (4000, 30)).save(tmp_path / "photo.jpg")
    assert tiling_of(tmp_path / "photo.jpg", auto, 640) is None
    said = capsys.readouterr().err
    assert "the whole is seen at 640, so that its mask has stairs of 6 pixels" in said
    assert "cut it into tiles: data.tile=640" in said
    exif = Image.Exif()
    exif.get_ifd(0x8769)[33434] = (1, 250)
    Image.new("RGB", (8064, 40)).save(tmp_path / "camera.jpg", exif=exif)
    assert tiling_of(tmp_path / "camera.jpg", auto, 640) is None
    assert "camera.jpg, exposed by a camera, has 8,064 x 40 pixels" in capsys.readouterr().err
    assert len(tiling_of(tmp_path / "camera.jpg", DataConfig(tile=640), 640)) == 17
    assert tiling_of(tmp_path / "scene.png", DataConfig(tile="none"), 640) is None
    huge_png(tmp_path / "strip.png", 9, 8000)
    assert tiling_of(tmp_path / "strip.png", DataConfig(tile=640), 640) is None
    # what is georeferenced, of any size
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", extratags=[*GEO.values()])
    found = tiling_of(tmp_path / "a.tif", auto, 64)
    assert found.rows == ((0, 64), (26, 90)) and len(found.columns) == 3
    assert tiling_of(tmp_path / "a.tif", auto, 130) is None


def test_no_more_than_a_strip_is_read_beyond_the_limit_of_pillow(tmp_path, monkeypatch):
    huge_png(tmp_path / "a.png", 14_000, 13_000)  # 182 million pixels
    with pytest.raises(DataError, match=r"too large to be .* in tiles \(data\.tile"):
        read_image(tmp_path / "a.png")
    largest = 0
    read = rasterio.io.DatasetReader.read

    def counted(self, *arguments, **options):
        nonlocal largest
        found = read(self, *arguments, **options)
        largest = max(largest, found.nbytes)
        return found

    from ssrseg.data import large

    class Counted:
        def __init__(self, dataset):
            self._dataset = dataset

        def __getattr__(self, name):
            return getattr(self._dataset, name)

        def read(self, *arguments, **options):
            return counted(self._dataset, *arguments, **options)

    real = large.WindowedImage.__init__
    monkeypatch.setattr(
        large.WindowedImage,
        "__init__",
        lambda self, path, dataset, *rest: real(self, path, Counted(dataset), *rest),
    )
    with open_large(tmp_path / "a.png") as image:
        assert image.size == (14_000, 13_000)
        assert image.window((0, 64), (100, 164)).shape == (64, 64, 3)
    assert 0 < largest <= 64 * 13_000  # a byte a pixel


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_a_damaged_file_is_named(tmp_path, kind):
    path = written(tmp_path / f"a.{kind}", kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with (
        pytest.raises(DataError, match=r"a\..* is damaged or cut short"),
        open_large(path) as image,
    ):
        image.window((0, 90), (0, 130))


WORLD = "10\n0\n0\n-10\n300005\n4999995\n"


@pytest.mark.parametrize(
    ("image", "beside", "text", "placed"),
    [
        ("a.jpg", "a.jgw", WORLD, True),
        ("a.jpg", "a.JGW", WORLD, True),
        ("a.jpg", "a.wld", WORLD, True),
        ("a.tif", "a.tfw", WORLD, True),
        ("a.png", "a.pgw", WORLD, True),
        ("a.png", "a.pngw", WORLD, True),
        ("a.png", "a.pgw", "none", False),
        (
            "a.jpg",
            "a.jpg.aux.xml",
            "<PAMDataset><GeoTransform>{}</GeoTransform></PAMDataset>",
            True,
        ),
        ("a.jpg", "a.jpg.aux.xml", "<PAMDataset><Histograms /></PAMDataset>", False),
        ("a.jpg", "b.jgw", WORLD, False),
    ],
)
def test_a_place_that_stands_beside_an_image(tmp_path, image, beside, text, placed):
    """It counts for tiles as GDAL counts it for exports."""
    Image.fromarray(picture()).save(tmp_path / image)
    text = text.format("300000,10,0,5000000,0,-10")
    (tmp_path / beside).write_text(text)
    assert read_header(tmp_path / image).georeferenced == placed
    with quiet_rasterio(), rasterio.open(tmp_path / image) as file:
        assert file.transform.is_identity != placed
    assert (tiling_of(tmp_path / image, DataConfig(), 64) is not None) == placed


def test_tags_that_make_no_transform_for_gdal_are_no_place(tmp_path):
    for name, tags in (("a", [33922, 34735]), ("b", [33550, 33922]), ("c", [33550, 34735])):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, picture(), photometric="rgb", extratags=[GEO[tag] for tag in tags])
        with quiet_rasterio(), rasterio.open(path) as file:
            assert read_header(path).georeferenced == (not file.transform.is_identity), name
        assert read_header(path).georeferenced == (name != "a")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_bands_of_an_image_of_three(tmp_path, suffix):
    """They are read in the order that is named, as a whole and in windows."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture()).save(
        path, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {})
    )
    expected = read_image(path)[..., [2, 0, 0]]
    assert torch.equal(read_image(path, bands=(3, 1, 1)), expected)
    with Image.open(path) as image:
        assert torch.equal(as_photo(image, bands=(3, 1, 1)), expected)
    with open_large(path, bands=(3, 1, 1)) as image:
        found = image.window((0, 90), (0, 130))
        assert (found.int() - expected.int()).abs().float().mean() < 1
    for read in (read_image, lambda path, bands: open_large(path, bands=bands).__enter__()):
        with pytest.raises(DataError, match=r"has 3 bands, but data\.bands = .* names band 4"):
            read(path, bands=(4, 2, 1))
    array = picture()
    assert torch.equal(as_photo(array, bands=(5, 2, 1)), torch.from_numpy(array))
    assert torch.equal(as_photo(Image.fromarray(array), bands=(5, 2, 1)), torch.from_numpy(array))


def test_bands_of_grey_and_of_colours_that_are_no_bands(tmp_path):
    grey, rgba = picture(bands=1)[..., 0], picture(bands=4)
    for name, values in (("a.png", grey), ("a.tif", grey), ("b.tif", grey.astype(np.uint16))):
        Image.fromarray(values).save(tmp_path / name)
        whole = read_image(tmp_path / name, (0.0, 255.0))
        assert torch.equal(read_image(tmp_path / name, (0.0, 255.0), (1, 1, 1)), whole)
        with pytest.raises(DataError, match=r"has 1 band, but data\.bands = .* names band 3"):
            read_image(tmp_path / name, bands=(3, 2, 1))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", bands=(3, 2, 1))
    assert torch.equal(found, read_image(tmp_path / "a.png")[..., [2, 1, 0]])
    found = read_image(tmp_path / "a.png", bands=(4, 2, 1))
    assert torch.equal(found, torch.from_numpy(rgba[..., [3, 1, 0]]))
    for name in ("a.gif", "p.png", "p.tif"):
        Image.fromarray(rgba[..., :3]).quantize(16).save(tmp_path / name)
        assert read_image(tmp_path / name, bands=(1, 2, 3)).shape == (90, 130, 3)
        with pytest.raises(DataError, match="and no bands"):
            read_image(tmp_path / name, bands=(3, 2, 1))
