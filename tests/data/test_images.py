from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError, features

from ssrseg.data.class_ids import read_class_ids, write_class_ids
from ssrseg.data.images import as_photo, check_range, check_size, read_image
from ssrseg.data.notices import say_again
from ssrseg.data.walk import list_images
from ssrseg.errors import DataError


def gradient(height=6, width=9):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 20, columns * 20, rows * columns], -1).astype(np.uint8)


def test_rgb_png_is_read_exactly(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert np.array_equal(image.numpy(), gradient())
    image[0, 0] = 7  # writable, or torch warns


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
        (9, lambda a: a),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png").numpy(), turn(gradient()))


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, dtype):
    values = np.array([[0, 128, 129, 257, 32768, 65279, 65535]])
    path = tmp_path / "a.tif"
    Image.fromarray(values.astype(dtype)).save(path)
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
    grey = read_image(path)[0, :, 0]
    assert grey.tolist() == [0, 0, 1, 1, 128, 254, 255]


def test_16_bit_pgm_and_png(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 257, 65535))
    assert read_image(tmp_path / "a.pgm")[0, :, 1].tolist() == [1, 255]
    Image.fromarray(np.array([[257, 25700]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[1, 1, 1], [100, 100, 100]]


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    colours = [(200, 40, 30), (20, 160, 60), (30, 60, 210), (240, 240, 240)]
    for n, colour in enumerate(colours):
        path = tmp_path / f"{n}.jpg"
        Image.new("RGB", (16, 16), colour).convert("CMYK").save(path, quality=100)
        with Image.open(path) as image:
            assert image.mode == "CMYK"
        assert (read_image(path)[8, 8].int() - torch.tensor(colour)).abs().max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "CMYK", "RGBX"])
def test_grey_and_other_colour_modes_become_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.new("RGB", (5, 4), "white").convert(mode).save(path)
    assert (read_image(path) >= 254).all()
    assert read_image(path).shape == (4, 5, 3)


def test_transparent_pixels_are_laid_on_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 100
    rgba[0, :, 3] = [0, 51, 255]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    expected = [[255, 255, 255], [224, 204, 204], [100, 0, 0]]
    assert read_image(tmp_path / "a.png")[0].tolist() == expected
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 8, 7, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=b"\x00\xff")  # Pillow warns of such palettes
    assert read_image(tmp_path / "p.png")[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_a_broken_exif_block_does_not_matter(tmp_path):
    path = tmp_path / "a.jpg"
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x09\x00\x12\x01\x03\x00"  # promises nine entries
    Image.fromarray(gradient(16, 24)).save(path, exif=exif)
    assert read_image(path).shape == (16, 24, 3)
    Image.fromarray(gradient(16, 24)).save(path, exif=b"Exif\x00\x00nonsense")
    assert read_image(path).shape == (16, 24, 3)


def test_a_large_scan_is_read_and_a_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above, raises above twice
    assert read_image(tmp_path / "a.png").shape == (40, 40, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.png is too large to be a photograph .*Scale it down"):
        read_image(tmp_path / "a.png")


def test_many_threads_leave_warnings_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        shapes = set(pool.map(lambda _: read_image(path).shape, range(200)))
    assert shapes == {(40, 40, 3)}
    assert list(warnings.filters) == before
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(path)


def test_paths_as_people_write_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "p.png"
    Image.fromarray(gradient()).save(path)
    for read in (read_image, as_photo):
        assert np.array_equal(read("~/p.png").numpy(), gradient())
        assert np.array_equal(read(path.parent / "p.png").numpy(), gradient())
    write_class_ids(path, torch.ones(4, 5, dtype=torch.uint8))
    assert read_class_ids("~/p.png").shape == (4, 5)
    assert list_images("~/p.png").images == list_images(str(tmp_path)).images == [path]
    for read, what in (
        (read_image, "an image"),
        (as_photo, "an image"),
        (read_class_ids, "a mask"),
    ):
        with pytest.raises(DataError, match=f"^the path of {what} is empty"):
            read("")


def error_of(path):
    with pytest.raises(DataError) as caught:
        read_image(path)
    return str(caught.value)


def test_what_is_said_of_unreadable_files(tmp_path):
    (tmp_path / "photo_1.jpg").touch()
    missing = tmp_path / "photo1.jpg"
    assert error_of(missing) == (
        f'image {missing} does not exist. Did you mean "photo_1.jpg"? Check the path, or copy the'
        " file there."
    )
    assert error_of(tmp_path / "no" / "a.jpg").startswith(
        f"image {tmp_path}/no/a.jpg does not exist. Nor does its folder {tmp_path}/no."
    )
    assert error_of(tmp_path) == (
        f"{tmp_path} is a folder, but one image is expected. Name a file in it."
    )
    assert error_of(tmp_path / "photo_1.jpg") == (
        f"image {tmp_path}/photo_1.jpg is empty (0 bytes). Copy it again or remove it."
    )
    (tmp_path / "web.jpg").write_text("<!DOCTYPE html><title>404</title>")
    assert error_of(tmp_path / "web.jpg") == (
        f"{tmp_path}/web.jpg is not an image, whatever its name says: no known format begins like"
        " it. Replace it by the real file or remove it from the data."
    )
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is no ordinary file but a device or pipe" in error_of(tmp_path / "pipe.jpg")
    Image.new("RGB", (9, 9)).save(tmp_path / "drawing.jpg", format="EPS")
    assert "is a drawing (EPS), no photograph" in error_of(tmp_path / "drawing.jpg")


def test_a_colour_mode_that_pillow_cannot_convert(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def refuse(self, mode):
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    assert error_of(tmp_path / "a.png") == (
        f"{tmp_path}/a.png cannot be turned into RGB from its colour mode RGB (conversion not"
        " supported). Save it as an 8-bit RGB JPEG or PNG."
    )


def test_a_file_without_permission(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # chmod does not stop root
    assert error_of(tmp_path / "a.png") == (
        f"image {tmp_path}/a.png may not be read by you. Change its permissions."
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = error_of(path)
    assert str(path) in message
    assert "Copy it again from the original" in message or "Replace it by the real" in message


@given(data=st.data(), suffix=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]))
def test_damage_gives_an_image_or_a_data_error(tmp_path_factory, data, suffix):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient(20, 24)).save(buffer, format=suffix, exif=exif)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        image = read_image(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert image.shape[-1] == 3 and image.dtype == torch.uint8


def test_check_size(tmp_path):
    image = torch.zeros(12, 20, 3, dtype=torch.uint8)
    check_size(image, tmp_path / "a.jpg", 12)
    with pytest.raises(DataError) as caught:
        check_size(image, tmp_path / "a.jpg", 16)
    assert str(caught.value) == (
        f"{tmp_path}/a.jpg is 20 x 12 pixels, smaller than one patch of the encoder (16 x 16)."
        " Remove it from the data or replace it by a larger copy."
    )


def test_a_png_whose_pixel_data_is_broken(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"junk")
        + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(content)
    assert "is damaged or cut short" in error_of(tmp_path / "a.png")


# ---------------------------------------------------------------- photographs in memory


@given(
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 9),
)
def test_one_photograph_in_every_form(tmp_path_factory, height, width, channels, seed):
    shape = (height, width, channels)
    hwc = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path_factory.mktemp("photo") / "a.png"
    pil = Image.fromarray(hwc[..., 0] if channels == 1 else hwc)
    pil.save(path)
    expected = read_image(path)
    chw = torch.from_numpy(hwc).permute(2, 0, 1)
    forms = [str(path), path, pil, Image.open(path), hwc, hwc.transpose(2, 0, 1), chw]
    forms += [chw.contiguous(), torch.from_numpy(hwc), hwc[::-1, ::-1].copy()[::-1, ::-1]]
    forms += [(hwc / 255).astype(kind) for kind in ("f2", "f4", "f8", ">f4")]
    forms += [chw.float() / 255, (chw.float() / 255).requires_grad_(), chw.half() / 255]
    forms += [hwc[..., 0], chw[0].float() / 255] if channels == 1 else []
    for form in forms:
        photo = as_photo(form)
        assert photo.dtype == torch.uint8 and photo.is_contiguous()
        assert torch.equal(photo, expected)
        photo[:] = 0  # new memory: the next form is unharmed


def test_a_pil_image_is_treated_as_its_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient(16, 24)).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.array([[257, 25700]], np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(gradient()).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(gradient()).convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.new("LA", (6, 5), (10, 99)).save(tmp_path / "la.png")
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as image:
            assert torch.equal(as_photo(image), read_image(path)), path
    assert as_photo(tmp_path / "turned.jpg").shape == (24, 16, 3)


def test_floats_go_to_the_nearest_level():
    row = torch.tensor([[0.0, 0.0019, 0.0020, 0.5, 1.0000001, -1e-9]])
    assert as_photo(row)[0, :, 0].tolist() == [0, 0, 1, 128, 255, 0]
    assert as_photo(row.bfloat16())[0, 0].tolist() == [0, 0, 0]


SHAPES = "height x width x 3 or 3 x height x width (or height x width, grey) is expected"
VALUES = "uint8 from 0 to 255 or floats from 0 to 1 are expected"


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (
            np.zeros((2, 3, 8, 9), np.uint8),
            f"the array of shape (2, 3, 8, 9) is a batch, but {SHAPES}."
            " Pass a list of images: list(batch).",
        ),
        (
            torch.zeros(9),
            f"the tensor of shape (9,) has 1 axis, but {SHAPES}. Reshape it, or give one image of"
            " it.",
        ),
        (
            torch.zeros(3, 0, 9),
            f"the tensor of shape (3, 0, 9) is empty, but {SHAPES}. Give a photograph.",
        ),
        (
            np.zeros((3, 50, 3), np.uint8),
            "the array of shape (3, 50, 3) can be read as height x width x channels and as channels"
            " x height x width. Give it as a PIL image, whose axes are certain:"
            " PIL.Image.fromarray(array).",
        ),
        (
            np.zeros((8, 9, 2), np.uint8),
            "the array of shape (8, 9, 2) has its 3 channels (RGB; or 4, RGBA; or 1, grey) neither"
            f" as first nor as last axis: {SHAPES}. Reorder its axes, or choose three channels.",
        ),
        (
            np.zeros((8, 9), bool),
            f"the array of shape (8, 9) holds bool, but {VALUES}. If it is no mask but truly black"
            " and white, give floats.",
        ),
        (
            np.zeros((8, 9), complex),
            f"the array of shape (8, 9) holds complex128, but {VALUES}. Convert it.",
        ),
        (
            torch.full((8, 9), 200),
            f"the tensor of shape (8, 9) holds int64 from 200 to 200, but {VALUES}. If 255 is"
            " white, convert it to uint8.",
        ),
        (
            np.full((8, 9), 256, np.uint16),
            f"the array of shape (8, 9) holds uint16 from 256 to 256, but {VALUES}. Divide it by"
            " the value of white, such as 65535 for 16 bits.",
        ),
        (
            np.full((8, 9), 255, np.float32),
            f"the array of shape (8, 9) holds float32 from 255 to 255, but {VALUES}. Divide it by"
            " 255.",
        ),
        (
            torch.full((8, 9), -0.5),
            f"the tensor of shape (8, 9) holds float32 from -0.5 to -0.5, but {VALUES}. Undo its"
            " normalisation (image * std + mean) and clip it to 0 .. 1.",
        ),
        (
            np.full((8, 9), np.nan),
            f"the array of shape (8, 9) holds nan or infinity, but {VALUES}. Give the photograph"
            " from before the calculation that made them.",
        ),
        (
            Image.new("RGB", (0, 4)),
            "the PIL image is empty (0 x 4). Give a photograph.",
        ),
        (
            [1, 2],
            "one image is expected, but a list was given. Give a path, a PIL image, a numpy array"
            " or a torch tensor.",
        ),
        (
            (image for image in "ab"),
            "one image is expected, but a generator was given. Pass several images as a list:"
            " list(images).",
        ),
        (
            b"a.png",
            "one image is expected, but a bytes was given. Give a path, a PIL image, a numpy array"
            " or a torch tensor.",
        ),
        (
            torch.ones(8, 9).to_sparse(),
            "an image is a dense tensor, but one was given that is sparse. Give image.to_dense().",
        ),
        (
            torch.ones(3, 8, 9, device="meta"),
            "an image is a dense tensor, but one was given that is without values (device meta)."
            " Give the photograph itself.",
        ),
        (
            torch.ones(8, 9).to(torch.float8_e4m3fn),
            "the tensor of shape (8, 9) holds torch.float8_e4m3fn, of which numpy makes no array."
            " Give uint8 or float32.",
        ),
        (
            torch.ones(8, 9, dtype=torch.complex64).conj(),
            f"the tensor of shape (8, 9) holds complex64, but {VALUES}. Convert it.",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_said_of_things_that_are_no_photograph(given_, message):
    with pytest.raises(DataError) as caught:
        as_photo(given_)
    assert str(caught.value) == message


def test_a_pil_image_whose_file_is_damaged_or_closed(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    with Image.open(path) as image:
        pass
    with pytest.raises(DataError, match=r"a\.png cannot be decoded \(.*while the file is open"):
        as_photo(image)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image, pytest.raises(DataError, match=r"a\.png cannot be decoded"):
        as_photo(image)


@pytest.mark.parametrize("value_range", [(5.0, 5.0), (9.0, 2.0), (0.0, float("nan"))])
def test_ranges_that_are_none(tmp_path, value_range):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    message = "value_range is .*, but two finite numbers are expected, black below white"
    for image in (tmp_path / "a.png", np.zeros((9, 9), np.uint8)):
        with pytest.raises(DataError, match=message):
            as_photo(image, value_range)
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "a.png", value_range)


@pytest.mark.parametrize("value_range", ["0,255", "09", (1.0,), (5, 5), 5, ("a", "b"), "", ()])
def test_other_things_than_ranges(value_range):
    with pytest.raises(DataError, match=r"value_range is .*, but two finite numbers"):
        check_range(value_range)
    check_range((0, 4095))
    check_range(None)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_pillow_is_not_told_to_fill_up_what_is_missing(tmp_path, monkeypatch, capsys, form):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    say_again()
    whole = encoded(noisy(), form)
    (tmp_path / "a").write_bytes(whole[: len(whole) // 2])
    assert "is damaged or cut short" in error_of(tmp_path / "a")
    assert "LOAD_TRUNCATED_IMAGES was True" in capsys.readouterr().err


def test_an_open_file_is_no_image():
    with pytest.raises(DataError, match=r"a BytesIO was given, an open file\. Give PIL\.Im"):
        as_photo(io.BytesIO(b"abc"))


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert error_of(tmp_path / "a.png").startswith(
        f"image {tmp_path / 'a.png'} is a link to {tmp_path / 'gone.png'}, which does not exist."
    )


@pytest.mark.parametrize("form", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize(("white", "scale"), [(4095, 16), (65535, 16), (65535, 257), (1023, 4)])
def test_deep_ppm(tmp_path, form, white, scale):
    picture = gradient(40, 12) if form in ("P3", "P6") else gradient(40, 12)[..., :1]
    values = picture.astype(np.uint16) * scale
    data = values.astype(">u2").tobytes()
    if form in ("P2", "P3"):
        data = b" ".join(b"%d" % value for value in values.ravel())
    path = tmp_path / "a.ppm"
    path.write_bytes(b"%s\n# made by hand\n12 40\n%d\n" % (form.encode(), white) + data)
    found = read_image(path).numpy().astype(int)
    assert np.abs(found - picture).max() <= 1
    path.write_bytes(path.read_bytes()[:-50])
    assert "is damaged or cut short" in error_of(path)


def test_pil_images_that_have_lost_bits_or_pages(tmp_path):
    path = tmp_path / "a.png"
    rows = b"".join(b"\0" + row.tobytes() for row in gradient().astype(">u2") * 16)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    with Image.open(path) as image:
        assert torch.equal(as_photo(image), read_image(path))
        image.load()
        with pytest.raises(DataError, match="has 16 bits, of which Pillow has kept 8"):
            as_photo(image)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(gradient()[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(gradient(), photometric="rgb")
    with Image.open(tmp_path / "a.tif") as image:
        assert as_photo(image).shape == (6, 9, 3)
        image.load()
        with pytest.raises(DataError, match="has a thumbnail as its first page"):
            as_photo(image)


# ---------------------------------------------------------------- colours


def with_profile(values, profile, name, tmp_path, **options):
    path = tmp_path / name
    Image.fromarray(values).save(path, icc_profile=profile, **options)
    return path


def shown(path):
    """By the colour management that Pillow brings along."""
    with Image.open(path) as image:
        source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )


def rgb_profile(swapped):
    """sRGB whose red and green primaries are exchanged, or sRGB as it is."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if swapped:
        red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
        profile[red : red + 1], profile[green : green + 1] = b"g", b"r"
    return bytes(profile)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_profiles_are_applied(tmp_path, name):
    path = with_profile(gradient(40, 60), rgb_profile(True), name, tmp_path)
    expected = np.array(shown(path)).astype(int)
    assert np.abs(read_image(path).numpy() - expected).mean() < 0.5
    with Image.open(path) as image:
        assert np.abs(np.array(image.convert("RGB")) - expected).mean() > 20
        assert torch.equal(as_photo(image), read_image(path))


def test_srgb_itself_and_broken_profiles_change_nothing(tmp_path):
    for profile in (rgb_profile(False), b"nonsense", rgb_profile(True)[:300], b"\0" * 200):
        path = with_profile(gradient(), profile, "a.png", tmp_path)
        assert np.array_equal(read_image(path).numpy(), gradient())


@pytest.mark.parametrize("value", [0, 1, 0xFFFF])
def test_a_damaged_profile_does_not_blacken_a_photograph(tmp_path, capsys, value):
    """One of the usual form: a matrix, and curves that are one gamma each."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = srgb.index(b"para")
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, value)
    damaged = srgb[:at] + curve + srgb[at + len(curve) :]
    say_again()
    path = with_profile(gradient(), damaged, "a.png", tmp_path)
    assert np.array_equal(read_image(path).numpy(), gradient())
    assert "damaged colour profile (ICC): such profiles are ignored" in capsys.readouterr().err


def test_profiles_of_transparent_and_indexed_pictures(tmp_path):
    rgba = np.dstack([gradient(), np.full((6, 9), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    found = read_image(with_profile(rgba, rgb_profile(True), "a.png", tmp_path))
    expected = np.array(shown(with_profile(gradient(), rgb_profile(True), "b.png", tmp_path)))
    expected[0, 0] = 255
    assert np.array_equal(found.numpy(), expected)
    image = Image.fromarray(gradient()).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "p.png", icc_profile=rgb_profile(True))
    image.convert("RGB").save(tmp_path / "q.png", icc_profile=rgb_profile(True))
    assert torch.equal(read_image(tmp_path / "p.png"), read_image(tmp_path / "q.png"))


def test_greys_with_a_profile_for_colours(tmp_path):
    grey = gradient()[..., 1]
    path = with_profile(grey, rgb_profile(True), "a.png", tmp_path)
    expected = np.array(
        shown(with_profile(np.dstack([grey] * 3), rgb_profile(True), "b.png", tmp_path))
    )
    assert np.abs(read_image(path).numpy() - expected.astype(int)).max() <= 1


def test_a_picture_in_lab(tmp_path):
    lab = ImageCms.createProfile("LAB")
    image = Image.fromarray(gradient(40, 60) // 2 + 60)
    srgb = ImageCms.createProfile("sRGB")
    ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB").save(tmp_path / "a.tif")
    assert np.abs(read_image(tmp_path / "a.tif").numpy() - np.array(image).astype(int)).mean() < 2


# ---------------------------------------------------------------- whole files


def encoded(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noisy(mode="RGB", height=120, width=173):
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 9, (height, width, 3))
    slopes = np.stack([columns, rows * 2, columns + rows], -1) * 0.8
    return Image.fromarray((slopes + noise).clip(0, 255).astype(np.uint8)).convert(mode)


JPEGS = {
    "baseline": {},
    "fine": {"quality": 95, "subsampling": 0},
    "restarts": {"restart_marker_rows": 2},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "progressive grey": {"mode": "L", "progressive": True},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_jpeg_that_ends_early_with_an_end_marker(tmp_path, kind, share):
    options = dict(JPEGS[kind])
    whole = encoded(noisy(options.pop("mode", "RGB")), **options)
    path = tmp_path / "a.jpg"
    for good in (whole, whole + b"trailing bytes", whole + bytes(5000)):
        path.write_bytes(good)
        assert read_image(path).shape == (120, 173, 3)
    at = whole.index(b"\xff\xda")
    cut = whole[: at + int((len(whole) - at) * share)].rstrip(b"\xff")
    path.write_bytes(cut + b"\xff\xd9")
    assert error_of(path) == (
        f"image {path} is damaged or cut short (its data end before the picture does). Copy it"
        " again from the original or remove it from the data."
    )
    with (
        Image.open(path) as image,
        pytest.raises(DataError, match=r"(data end before the picture|truncated)"),
    ):
        as_photo(image)


def ends_of(whole, kind):
    """Ways in which a file ends early, by name."""
    at = whole.index(b"\xff\xda")
    cut = whole[: at + int((len(whole) - at) * 0.6)].rstrip(b"\xff")
    marker = whole.index(b"\xff", at + 14) + 1
    rest, last = len(whole) - len(cut), whole.rindex(b"\xff\xda")
    ends = {
        "behind 0xFF": cut + b"\xff\xff\xd9",
        "behind the first 0xFF": whole[:marker] + b"\xff\xd9",
        "zeros": cut + bytes(rest),
        "zeros and end": cut + bytes(rest) + b"\xff\xd9",
        "0xFF": cut + b"\xff" * rest,
        "0xFF and end": cut + b"\xff" * rest + b"\xff\xd9",
        "a hole of zeros": cut + bytes(rest // 2) + whole[len(cut) + rest // 2 :],
        "a marker in between": cut + b"\xff\xfe" + whole[len(cut) + 2 :],
    }
    if "restarts" in kind:
        marks = [each for each in range(at, len(whole)) if whole[each : each + 2] == b"\xff\xd1"]
        ends["at a restart"] = whole[: marks[0]] + b"\xff\xd9"
        ends["behind a restart"] = whole[: marks[0] + 2] + b"\xff\xd9"
        ends["a part is missing"] = whole[: marks[0]] + whole[whole.index(b"\xff\xd2", marks[0]) :]
    if last > at:  # several scans
        ends["a scan is missing"] = whole[:last] + b"\xff\xd9"
        ends["zeros in the last scan"] = whole[: last + 40] + bytes(2000) + b"\xff\xd9"
    return ends


@pytest.mark.parametrize("kind", [*JPEGS, "progressive restarts"])
def test_other_ends_of_a_jpeg(tmp_path, kind):
    options = dict(JPEGS.get(kind, {"progressive": True, "restart_marker_rows": 1}))
    whole = encoded(noisy(options.pop("mode", "RGB")), **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    good = read_image(path)
    for name, content in ends_of(whole, kind).items():
        path.write_bytes(content)
        with pytest.raises(DataError, match="is damaged or cut short") as caught:
            pytest.fail(f"{name}: {(read_image(path) != good).float().mean():.3f} differ")
        assert re.search("its data|is truncated", str(caught.value)), name
    for content in (whole[:-2], whole[:-2] + bytes(3000), whole[:-2] + b"\xff" * 99 + b"\xff\xd9"):
        path.write_bytes(content)
        if "progressive" not in kind:  # which Pillow decodes only with its end marker
            assert torch.equal(read_image(path), good)
    path.write_bytes(whole[:-2] + bytes(3000) + b"\xff\xd9")
    assert torch.equal(read_image(path), good)


def test_a_flat_jpeg_may_end_in_zeros(tmp_path):
    for colour in ("white", "black", (128, 128, 128), (200, 30, 90)):
        for options in ({}, {"optimize": True}, {"progressive": True}):
            Image.new("RGB", (900, 700), colour).save(tmp_path / "a.jpg", **options)
            assert read_image(tmp_path / "a.jpg").shape == (700, 900, 3)
    picture = noisy(height=400, width=400)
    picture.paste("white", (0, 90, 400, 400))
    whole = encoded(picture, optimize=True)
    assert bytes(16) in whole
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_image(tmp_path / "a.jpg").shape == (400, 400, 3)


def test_pictures_with_the_grey_of_missing_data_are_good(tmp_path):
    path = tmp_path / "a.jpg"
    for mode in ("RGB", "L"):
        Image.new("RGB", (90, 70), (128, 128, 128)).convert(mode).save(path)
        assert (read_image(path) == 128).all()


def test_several_pictures_in_one_file(tmp_path):
    path = tmp_path / "a.mpo"
    noisy().save(path, "MPO", save_all=True, append_images=[noisy().rotate(180)])
    first = encoded(noisy())
    (tmp_path / "b.jpg").write_bytes(first)
    assert torch.equal(read_image(path), read_image(tmp_path / "b.jpg"))
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("a.gif", "a.webp"):
        assert read_image(tmp_path / name)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "JPEG2000", "TGA", "PPM", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_files_that_are_cut_short(tmp_path, form, share):
    path = tmp_path / "a"
    whole = encoded(noisy(), form)
    path.write_bytes(whole)
    assert read_image(path).shape == (120, 173, 3)
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "is damaged or cut short" in error_of(path)


def test_a_png_with_one_bit_changed(tmp_path):
    for place in (0.1, 0.5, 0.9):
        content = bytearray(encoded(noisy(), "PNG", compress_level=0))
        content[int(len(content) * place)] ^= 1
        (tmp_path / "a.png").write_bytes(content)
        assert "is damaged or cut short" in error_of(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (b"\0\0\0\x18ftypheic", "is a HEIC photograph, which cannot be read here. Install the"),
        (b"\0\0\0\x18ftypcrx ", r"is raw data of a camera \(CR3\).* export it as JPEG"),
        (b"\xff\x0a", "is a JPEG XL photograph, which ssrseg does not read. Export it as JPEG"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"version https://git-lfs.github.com", "is a Git LFS pointer"),
    ],
)
def test_other_files_are_named_as_what_they_are(tmp_path, monkeypatch, begin, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "a.jpg").write_bytes(begin + bytes(100))
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "a.jpg")


def test_an_avif_without_its_library(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    if features.check("avif"):
        noisy().save(path)
        assert read_image(path).shape == (120, 173, 3)
    path.write_bytes(b"\0\0\0\x18ftypavif" + bytes(100))
    monkeypatch.setattr(Image, "open", lambda _: (_ for _ in ()).throw(UnidentifiedImageError()))
    assert "is an AVIF photograph, which cannot be read here. Install a newer Pillow" in error_of(
        path
    )
