from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssrseg.data.class_ids import (
    only_0_and_255,
    read_class_ids,
    read_truth,
    voc_palette,
    write_class_ids,
)
from ssrseg.data.find_masks import find_masks
from ssrseg.data.images import read_image
from ssrseg.data.notices import say_again
from ssrseg.errors import DataError

IDS = np.array([[0, 1, 2], [255, 3, 0]], np.uint8)
VOC = voc_palette()


@pytest.fixture(autouse=True)
def nothing_said_before():
    say_again()


def indexed(path, indices, colours, **options):
    image = Image.fromarray(np.array(indices, np.uint8))
    image.putpalette(np.array(colours, np.uint8).tobytes())
    image.save(path, **options)
    return path


def test_class_ids_survive_writing_and_look_like_vocs(tmp_path):
    ids = torch.arange(256, dtype=torch.uint8).view(8, 32)
    path = tmp_path / "new" / "a.png"
    write_class_ids(path, ids)
    assert torch.equal(read_class_ids(path), ids)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette() == voc_palette().flatten().tolist()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_voc_palette():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for label, colour in (known | {255: (224, 224, 192)}).items():
        assert tuple(palette[label]) == colour
    assert len(np.unique(palette, axis=0)) == 256


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.tiff", "a.bmp", "a.gif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ids_in_every_lossless_format(tmp_path, name, dtype):
    if dtype == np.uint16 and name in ("a.bmp", "a.gif"):
        pytest.skip("has no 16 bits")
    Image.fromarray(IDS.astype(dtype)).save(tmp_path / name)  # a GIF gets a palette of greys
    assert read_class_ids(tmp_path / name, 3).tolist() == IDS.tolist()
    if dtype == np.uint8:
        indexed(tmp_path / name, IDS, VOC)
        assert read_class_ids(tmp_path / name).tolist() == IDS.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_low_bit_depths_are_ids(tmp_path, bits):
    ids = np.arange(2**bits, dtype=np.uint8)[None]
    path = tmp_path / "a.png"
    grey = Image.fromarray(ids * (255 // (2**bits - 1)))
    if bits == 1:
        grey.convert("1").save(path)
    else:  # as other programs do: Pillow writes greys of 8 bits, so its 4-bit palette is renamed
        indexed(path, ids, VOC[: 2**bits], bits=bits)
        assert read_class_ids(path).tolist() == ids.tolist()
        path.write_bytes(grey_png(ids, bits))
        with Image.open(path) as image:
            assert np.array(image).max() == 255  # scaled
    assert read_class_ids(path).tolist() == ids.tolist()
    if bits == 1:
        tifffile.imwrite(tmp_path / "a.tif", ids.astype(bool), photometric="miniswhite")
        assert read_class_ids(tmp_path / "a.tif").tolist() == ids.tolist()


def grey_png(ids, bits):
    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    ones = np.unpackbits(ids[..., None], axis=-1)[..., -bits:].reshape(len(ids), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(ones, axis=1))
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def test_one_bit_with_a_palette(tmp_path):
    ids, colours = np.array([[0, 1, 1]], bool), np.zeros((3, 2), np.uint16)
    colours[0, 1] = 128 * 257  # VOC's first class
    table = [(320, "H", 6, colours.ravel().tolist(), True)]
    tifffile.imwrite(tmp_path / "a.tif", ids, photometric="minisblack", extratags=table)
    content = (tmp_path / "a.tif").read_bytes()  # tifffile writes no palettes of 1 bit
    grey, palette = (struct.pack("<HHII", 262, 3, 1, kind) for kind in (1, 3))
    (tmp_path / "a.tif").write_bytes(content.replace(grey, palette))
    assert read_class_ids(tmp_path / "a.tif", 20, [0]).tolist() == [[0, 1, 1]]
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[0, 0, 0], [128, 0, 0], [128, 0, 0]]


# ---------------------------------------------------------------- palettes


def test_a_palette_in_another_order_goes_by_colour(tmp_path, capsys):
    path = indexed(tmp_path / "a.png", [[0, 1, 1, 2]], VOC[[1, 0, 255]])
    assert read_class_ids(path).tolist() == [[1, 0, 0, 255]]
    assert capsys.readouterr().err == (
        f"Note: {path} has VOC's colours in another order than its indices: it and masks like it"
        " are read by colour, not by index.\n"
    )
    path = indexed(tmp_path / "a.png", [[0, 1, 2]], VOC[[0, 8, 255]])  # unused colours dropped
    assert read_class_ids(path, 20).tolist() == [[0, 8, 255]]
    assert read_class_ids(path, 20, [7]).tolist() == [[0, 8, 255]]


@given(
    order=st.permutations(range(22)).filter(lambda order: order[0]),
    pixels=st.lists(st.integers(0, 21), min_size=1, max_size=12),
)
def test_any_order_that_moves_the_background(tmp_path_factory, order, pixels):
    ids = [*range(21), 255]
    colours = VOC[[ids[each] for each in order]]
    path = indexed(tmp_path_factory.mktemp("mask") / "a.png", [pixels], colours)
    found = read_class_ids(path, 20).tolist()[0]
    by_colour = [ids[order[pixel]] for pixel in pixels]
    assert found == by_colour or all(
        pixel == each for pixel, each in zip(pixels, found, strict=True)
    )
    if any(VOC[pixel].tolist() != colours[pixel].tolist() for pixel in pixels):
        assert found == by_colour


def test_what_optimisers_make_of_a_mask(tmp_path):
    ids = np.random.default_rng(0).choice([0, 3, 7, 15, 255], (20, 30)).astype(np.uint8)
    rgb = Image.fromarray(VOC[ids])
    for name in ("a.png", "a.gif", "a.tif"):
        rgb.quantize(8, dither=Image.Dither.NONE).save(tmp_path / name)
        assert np.array_equal(read_class_ids(tmp_path / name, 20), ids), name
    for name in ("b.png", "b.bmp", "b.tif"):
        rgb.save(tmp_path / name)
        assert np.array_equal(read_class_ids(tmp_path / name, 20), ids), name
    rgb.convert("RGBA").save(tmp_path / "c.png")
    assert np.array_equal(read_class_ids(tmp_path / "c.png", 20), ids)


def test_other_palettes_go_by_index(tmp_path, capsys):
    for colours in (
        [(0, 0, 0), (255, 255, 255), (128, 128, 128)],
        [(0, 0, 0), (255, 0, 0), (0, 128, 0)],
        [(7, 7, 7), (128, 0, 0), (0, 0, 0)],
    ):
        path = indexed(tmp_path / "a.png", [[0, 1, 2]], colours)
        assert read_class_ids(path).tolist() == [[0, 1, 2]]
    # VOC's green for the only class: by colour it would be one that the data do not have
    path = indexed(tmp_path / "a.png", [[0, 1]], VOC[[0, 2]])
    assert read_class_ids(path, 1).tolist() == [[0, 1]]
    assert read_class_ids(path, 5, [0]).tolist() == [[0, 1]]
    assert capsys.readouterr().err == ""


def test_greys_that_became_a_palette(tmp_path, capsys):
    greys = [(0, 0, 0), (255, 255, 255), (3, 3, 3)]
    path = indexed(tmp_path / "a.png", [[0, 1, 2]], greys)
    assert read_class_ids(path, 3).tolist() == [[0, 255, 3]]
    assert "has greys that are class ids, not its indices" in capsys.readouterr().err
    assert read_class_ids(indexed(path, [[0, 1, 1]], greys), 3).tolist() == [[0, 1, 1]]
    assert read_class_ids(indexed(path, [[0, 1, 2]], greys), 2).tolist() == [[0, 1, 2]]


def test_a_palette_that_may_mean_two_things(tmp_path):
    path = indexed(tmp_path / "a.png", [[0, 1, 2]], VOC[[0, 2, 1]])
    with pytest.raises(DataError) as caught:
        read_class_ids(path, 2)
    assert str(caught.value) == (
        f"{path} has VOC's colours in another order: index 1 has the colour of class id 2, and both"
        " are classes here. Save it with VOC's palette, or as 8-bit grey PNG of class ids."
    )


# ---------------------------------------------------------------- what is refused


def test_masks_in_colours(tmp_path, capsys):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[(0, 0, 0), (128, 0, 0), (9, 20, 0)]], np.uint8)).save(path)
    with pytest.raises(DataError) as caught:
        read_class_ids(path)
    assert str(caught.value) == (
        f"{path} is colour-coded, and (9, 20, 0) is no colour of VOC's; a mask holds one class id"
        " per pixel (0 background, 1 .. classes, 255 ignore). Use the original indexed PNG, or"
        " replace each colour by its id and save as indexed or 8-bit grey PNG."
    )
    Image.fromarray(np.dstack([IDS] * 3)).save(path)
    assert read_class_ids(path).tolist() == IDS.tolist()
    assert "are RGB greys: read as ids" in capsys.readouterr().err
    Image.fromarray(np.dstack([IDS] * 3 + [IDS])).save(path)
    with pytest.raises(DataError, match="has transparent pixels, but a mask holds one class id"):
        read_class_ids(path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.webp", {"quality": 80}, "is a lossy WebP, whose compression changes class ids"),
        ("a.png", {"format": "WEBP"}, "is a lossy WebP"),
        ("a.tif", {"compression": "jpeg"}, "is a TIFF with jpeg compression, which changes class"),
        ("a.jp2", {"irreversible": True}, "is a JPEG2000, whose compression changes class ids"),
        ("a.jp2", {"quality_mode": "rates", "quality_layers": [4]}, "is a JPEG2000, whose"),
        ("a.png", {"format": "JPEG"}, "is a JPEG, whose compression changes class ids"),
        ("a.tif", {"mode": "CMYK"}, "is in the colours CMYK, which are no class ids"),
        ("a.tif", {"mode": "YCbCr"}, "is in the colours YCbCr, which are no class ids"),
    ],
)
@pytest.mark.parametrize("colour", [False, True])
def test_lossy_masks_are_refused(tmp_path, name, options, message, colour):
    options = dict(options)
    mode = options.pop("mode", "RGB" if colour else "L")
    ids = np.zeros((48, 64), np.uint8)
    ids[5:20, 5:20], ids[25:40, 10:50] = 5, 15
    picture = Image.fromarray(VOC[ids] if colour else ids).convert(mode)
    picture.save(tmp_path / name, **options)
    with pytest.raises(DataError, match=message):
        read_class_ids(tmp_path / name, 20)


def test_lossless_webp_is_no_lossy_one(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "a.webp", lossless=True)
    assert read_class_ids(tmp_path / "a.webp").tolist() == IDS.tolist()
    frames = [Image.fromarray(VOC[IDS])] * 2
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_class_ids(tmp_path / "a.webp").tolist() == IDS.tolist()


def test_masks_of_the_wrong_form(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"is a JPEG, whose compression changes class ids"):
        read_class_ids(tmp_path / "a.jpg")
    Image.new("L", (4, 4)).save(tmp_path / "a.pgm")
    with pytest.raises(DataError, match=r"is a PPM, whose greys need not be class ids"):
        read_class_ids(tmp_path / "a.pgm")
    Image.fromarray(np.array([[3, 1000]], np.uint16)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r"has pixel values from 3 to 1000, but class ids lie in"):
        read_class_ids(tmp_path / "wide.png")
    tifffile.imwrite(tmp_path / "f.tif", IDS.astype(np.float32))
    assert read_class_ids(tmp_path / "f.tif").tolist() == IDS.tolist()
    for values, message in (
        (IDS + 0.5, "that are no whole numbers"),
        (IDS - 1.0, "from -1 to 254"),
    ):
        tifffile.imwrite(tmp_path / "f.tif", values.astype(np.float32))
        with pytest.raises(DataError, match=message):
            read_class_ids(tmp_path / "f.tif")
    tifffile.imwrite(tmp_path / "f.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(DataError, match="that are no whole numbers"):
        read_class_ids(tmp_path / "f.tif")
    Image.fromarray(IDS).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"mask .*cut\.png is damaged or cut short"):
        read_class_ids(tmp_path / "cut.png")


def test_0_and_255(tmp_path, capsys):
    def ids(*values):
        return torch.tensor([values], dtype=torch.uint8)

    assert only_0_and_255(ids(0, 255, 0))
    assert not any(map(only_0_and_255, (ids(0, 0), ids(255, 255), ids(0, 1), ids(0, 1, 255))))
    path = tmp_path / "a.png"
    write_class_ids(path, ids(0, 255))
    read_truth(path, (1, 2), 1, [])
    assert capsys.readouterr().err == ""
    read_truth(path, (1, 2), 1, [0])
    assert (
        "holds only 0 and 255 although a class is labelled. 255 means ignore"
        in capsys.readouterr().err
    )
    with pytest.raises(
        DataError, match=r"a\.png is 2 x 1 pixels, its image 2 x 2\. Masks must have"
    ):
        read_truth(path, (2, 2), 1)


@given(
    content=st.binary(max_size=300),
    form=st.sampled_from(["PNG", "GIF", "BMP", "TIFF"]),
    data=st.data(),
)
def test_damage_gives_ids_or_a_data_error(tmp_path_factory, content, form, data):
    buffer = io.BytesIO()
    image = Image.fromarray(IDS)
    image.putpalette(VOC.tobytes())
    image.save(buffer, form)
    whole = bytearray(buffer.getvalue())
    for byte in content[:4]:
        whole[data.draw(st.integers(0, len(whole) - 1))] = byte
    path = tmp_path_factory.mktemp("mask") / "a"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        ids = read_class_ids(path, 3, [0])
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert ids.dtype == torch.uint8 and ids.ndim == 2


# ---------------------------------------------------------------- where they are


def test_find_masks(tmp_path):
    for name in (
        "a.png",
        "b.PNG",
        "sub/c.TIF",
        "d.bmp",
        "e.gif",
        "f.jpg",
        "a.jpg",
        ".g.png",
        "h.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {
        name: path.relative_to(tmp_path).as_posix() for name, path in find_masks(tmp_path).items()
    }
    assert found == {
        "a": "a.png",
        "b": "b.PNG",
        "sub/c": "sub/c.TIF",
        "d": "d.bmp",
        "e": "e.gif",
        "f": "f.jpg",
    }
    (tmp_path / "b.tif").touch()
    with pytest.raises(
        DataError, match=r"holds both b\.PNG and b\.tif, masks of the same name up to"
    ):
        find_masks(tmp_path)
    assert find_masks(tmp_path / "absent") == {}
