from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ssrseg.data.images import as_photo, read_image
from ssrseg.data.notices import say_again
from ssrseg.data.pixels import PixelValues
from ssrseg.data.tiff import read_page
from ssrseg.errors import DataError


@pytest.fixture(autouse=True)
def nothing_said_before():
    say_again()


def ramp(height=40, width=60):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 4, rows * 6, rows + columns], -1).astype(np.uint8)


GREY = ramp()[..., 0]


def read(tmp_path, values, **options):
    """A photograph written by tifffile, as RGB."""
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    return read_image(tmp_path / "a.tif").numpy()


def near(found, expected, most=1):
    if expected.ndim == 2:
        expected = np.dstack([expected] * 3)
    return found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= most


@pytest.mark.parametrize(
    ("bits", "white"), [(8, 255), (10, 1023), (12, 4095), (14, 16383), (16, 65535)]
)
@pytest.mark.parametrize("colour", [False, True])
def test_fewer_bits_in_16(tmp_path, capsys, bits, white, colour):
    picture = ramp() if colour else GREY
    picture = np.where(picture == picture.max(), 255, picture)
    values = np.rint(picture * (white / 255)).astype(np.uint16)
    kind = {"photometric": "rgb"} if colour else {}
    assert near(read(tmp_path, values, **kind), picture, 0)
    said = capsys.readouterr().err
    if bits == 16:
        assert said == ""
    else:
        assert f"darkest pixel 0, brightest {white} of 65535." in said
        assert f"read as {bits} bits: black = 0, white = {white}. data.range (predict" in said


def test_one_note_for_photographs_of_a_kind(tmp_path, capsys):
    for _ in range(3):
        read(tmp_path, GREY.astype(np.uint16) * 16)
    read(tmp_path, GREY.astype(np.uint16) * 4)
    said = capsys.readouterr().err
    assert said.count("read as 12 bits") == said.count("read as 10 bits") == 1


def test_range_by_the_setting(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.uint16) * 4)
    tifffile.imwrite(tmp_path / "b.tif", GREY)
    assert near(read_image(tmp_path / "a.tif", (0.0, 4080.0)).numpy(), GREY // 4)
    assert near(
        read_image(tmp_path / "a.tif", (400.0, 440.0)).numpy(),
        ((GREY * 4.0 - 400) * 6.375).clip(0, 255),
    )
    assert near(
        read_image(tmp_path / "b.tif", (0.0, 4080.0)).numpy(), GREY, 0
    )  # 8 bits are what they are
    assert capsys.readouterr().err == ""
    array = GREY.astype(np.uint16) * 4
    assert near(as_photo(array, (0.0, 1020.0)).numpy(), GREY, 0)
    with pytest.raises(DataError, match="holds uint16 from 0 to 944"):
        as_photo(array)


def test_range_by_the_header(tmp_path, capsys):
    values = GREY.astype(np.uint16)  # dark, but the header knows
    for tags in (280, 281), (340, 341):
        say_again()
        extra = [(tags[0], "H", 1, 0, True), (tags[1], "H", 1, 1023, True)]
        assert near(read(tmp_path, values, extratags=extra), GREY / 4)
        assert "are read as its header says: black = 0, white = 1023" in capsys.readouterr().err
    extra = [(281, "H", 1, 100, True)]  # it does not: there are brighter pixels
    assert near(read(tmp_path, values, extratags=extra), GREY, 0)


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
def test_white_is_zero(tmp_path, bits):
    picture = np.where(GREY > 100, 255, 0) if bits == 1 else GREY
    white = 2**bits - 1
    values = white - np.rint(picture * (white / 255)).astype(np.uint16)
    if bits == 1:
        values = values.astype(bool)
    elif bits == 8:
        values = values.astype(np.uint8)
    found = read(tmp_path, values, photometric="miniswhite")
    assert near(found, picture, 1)
    with Image.open(tmp_path / "a.tif") as image:
        assert torch.equal(as_photo(image), torch.from_numpy(found))
        image.load()
        assert torch.equal(as_photo(image), torch.from_numpy(found))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_separate_planes(tmp_path, dtype, tile, compression):
    scale = {"u1": 1, "u2": 257, "f4": 1 / 255}[dtype]
    values = (ramp().transpose(2, 0, 1).astype(float) * scale).astype(dtype)
    options = {"tile": tile, "compression": compression}
    found = read(tmp_path, values, photometric="rgb", planarconfig="separate", **options)
    assert near(found, ramp(), 0)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_many_bands(tmp_path, capsys, planar, dtype):
    scale = 257 if dtype == "u2" else 1
    values = (np.concatenate([ramp()] * 3, -1)[..., :7].astype(dtype)) * np.array(scale, dtype)
    if planar == "separate":
        values = values.transpose(2, 0, 1)
    with pytest.raises(DataError, match=r"has 7 bands, and nothing says which .* data\.bands="):
        read(tmp_path, values, photometric="minisblack", planarconfig=planar)
    assert near(read_image(tmp_path / "a.tif", bands=(1, 2, 3)).numpy(), ramp(), 0)
    found = read_image(tmp_path / "a.tif", bands=(6, 7, 5)).numpy()
    assert near(found, ramp()[..., [2, 0, 1]], 0)
    with pytest.raises(DataError, match=r"has 7 bands, but data\.bands = \[1, 2, 8\] names band 8"):
        read_image(tmp_path / "a.tif", bands=(1, 2, 8))
    assert capsys.readouterr().err == ""


def test_colours_that_the_file_names_need_no_bands(tmp_path, capsys):
    values = np.dstack([ramp(), GREY])
    found = read(tmp_path, values, photometric="rgb", extrasamples=["unspecified"])
    assert near(found, ramp(), 0)
    assert "has 4 bands, of which the first three are read as red" in capsys.readouterr().err
    found = read_image(tmp_path / "a.tif", bands=(4, 1, 2)).numpy()
    assert near(found, np.dstack([GREY, ramp()[..., :2]]), 0)


def test_a_band_that_is_named_is_no_alpha(tmp_path):
    infrared = np.where(GREY > 100, 255, 0).astype(np.uint8)
    values = np.dstack([ramp(), infrared])
    read(tmp_path, values, photometric="rgb", extrasamples=["unassalpha"])
    found = read_image(tmp_path / "a.tif", bands=(4, 2, 3)).numpy()
    assert near(found, np.dstack([infrared, ramp()[..., 1:]]), 0)


@pytest.mark.parametrize("tag", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("scale", [1, 257])
def test_near_infrared_tagged_as_alpha(tmp_path, capsys, tag, scale):
    infrared = np.random.default_rng(0).integers(40, 220, (40, 60, 1))
    values = np.dstack([ramp(), infrared]) * scale
    values = values.astype(np.uint8 if scale == 1 else np.uint16)
    found = read(tmp_path, values, photometric="rgb", extrasamples=[tag])
    assert near(found, ramp(), 0)
    said = capsys.readouterr().err
    assert "has a band tagged as alpha that is neither opaque nor transparent in" in said
    assert "it is left out" in said
    if scale == 1:
        with Image.open(tmp_path / "a.tif") as image:
            assert torch.equal(as_photo(image), torch.from_numpy(found))
            image.load()  # divides by an associated one
            assert tag == "assocalpha" or torch.equal(as_photo(image), torch.from_numpy(found))


@pytest.mark.parametrize("tag", ["unassalpha", "assocalpha"])
def test_true_alpha_is_laid_on_white(tmp_path, capsys, tag):
    opaque = (GREY > 100)[..., None]
    colours = ramp() * opaque if tag == "assocalpha" else ramp()
    values = np.dstack([colours, opaque * 255]).astype(np.uint8)
    found = read(tmp_path, values, photometric="rgb", extrasamples=[tag])
    assert near(found, np.where(opaque, ramp(), 255), 0)
    assert capsys.readouterr().err == ""
    values[..., 3] = 0
    assert near(read(tmp_path, values, photometric="rgb", extrasamples=["unassalpha"]), colours, 0)
    assert "is transparent everywhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        (ramp() / np.float32(255), ramp(), ""),
        (GREY.astype(np.float64), GREY, "by their brightest pixel: black = 0, white = 255"),
        (GREY.astype(np.float32) * 16, GREY, "by their brightest pixel: black = 0, white = 4095"),
        ((GREY / 255).astype(np.float16), GREY, ""),
        (
            GREY.astype(np.int16) * 12 - 1000,
            GREY / 236 * 255,
            "stretched: black = -1000, white = 1832",
        ),
        ((GREY.astype(int) - 128).astype(np.int8), GREY / 236 * 255, "stretched: black = -128"),
        (GREY.astype(np.int32) * 9000, GREY / 236 * 255, "white = 2.124e+06"),
        (20000 + GREY.astype(np.uint16) * 10, GREY / 236 * 255, "black = 20000, white = 22360"),
        (np.full((9, 9), 30000, np.uint16), np.full((9, 9), 117), ""),
    ],
    ids=["rgb", "f8", "f4", "f2", "i2", "i1", "i4", "thermal", "constant"],
)
def test_other_types_and_ranges(tmp_path, capsys, values, expected, said):
    kind = {"photometric": "rgb"} if values.ndim == 3 else {}
    assert near(read(tmp_path, values, **kind), expected, 1)
    err = capsys.readouterr().err
    assert said in err and bool(said) == bool(err)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_white_of_signed_integers(tmp_path, capsys, dtype):
    white = np.iinfo(dtype).max
    picture = np.where(GREY.max() == GREY, 255, GREY)
    assert near(read(tmp_path, np.rint(picture * (white / 255)).astype(dtype)), picture, 1)
    assert capsys.readouterr().err == ""
    if dtype == np.int16:
        assert near(read(tmp_path, np.rint(picture * (4095 / 255)).astype(dtype)), picture, 1)
        said = capsys.readouterr().err
        assert "brightest 4095 of 32767. It and" in said and "read as 12 bits" in said


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_an_alpha_band_of_0_and_1(tmp_path, capsys, name):
    opaque = (GREY > 100)[..., None]
    values = np.dstack([ramp(), opaque]).astype(np.uint8)
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extrasamples=["unassalpha"])
    else:
        Image.fromarray(values).save(tmp_path / name)
    assert near(read_image(tmp_path / name).numpy(), np.where(opaque, ramp(), 255), 0)
    assert capsys.readouterr().err == ""


def test_pixels_without_a_value(tmp_path, capsys):
    values = GREY.astype(np.float32) / 255
    values[:4], values[4:6] = np.nan, np.inf
    expected = GREY.copy()
    expected[:6] = 0
    assert near(read(tmp_path, values), expected, 0)
    assert (
        "15 % of the values are nan, infinite or nodata; they are read as black"
        in capsys.readouterr().err
    )
    values[:6] = -9999
    assert near(read(tmp_path, values, extratags=[(42113, "s", 0, "-9999", True)]), expected, 0)
    values[:] = np.nan
    with pytest.raises(DataError, match="has no pixel with a value"):
        read(tmp_path, values)
    with pytest.raises(DataError, match="holds complex64 values, of which no photograph"):
        read(tmp_path, GREY.astype(np.complex64))


def test_a_hot_pixel_does_not_make_a_picture_black(tmp_path, capsys):
    values = np.tile(GREY.astype(np.uint16) * 16, (4, 4))
    values[7, 7] = 65535
    assert near(read(tmp_path, values)[20:], np.tile(GREY, (4, 4))[20:])
    assert "read as 12 bits" in capsys.readouterr().err
    values[:8, :8] = 65535  # many of them: at least it is said
    read(tmp_path, values)
    said = capsys.readouterr().err
    assert "has almost all of its values between 64 and 3776, which is little of" in said
    assert "Set data.range" in said


def test_palettes(tmp_path):
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])
    for wide in (1, 257):
        table = (colours * wide).astype(np.uint16)
        found = read(tmp_path, GREY, photometric="palette", colormap=table)
        assert near(found, colours.T[GREY], 0)


@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("big", [True, False])
def test_a_thumbnail_before_the_picture(tmp_path, capsys, flagged, below, big):
    kind = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=big) as file:
        small = int(flagged or below)
        file.write(ramp()[::4, ::4], subfiletype=small, subifds=int(below), **kind)
        file.write(ramp(), **kind)
    assert near(read_image(tmp_path / "a.tif").numpy(), ramp(), 0)
    said = "begins with a smaller picture (15 x 10): the full one is read (60 x 40)"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "compression", "most"),
    [
        ("CMYK", None, 0),
        ("YCbCr", None, 0),
        ("RGB", "jpeg", 9),
        ("L", "jpeg", 9),
        ("CMYK", "tiff_lzw", 0),
    ],
)
def test_pages_that_pillow_has_to_decode(tmp_path, mode, compression, most):
    """It is told where the page after the thumbnail begins."""
    picture = Image.fromarray(ramp()).convert(mode)
    thumbnail = picture.reduce(4)
    options = {"save_all": True, "append_images": [picture], "compression": compression}
    thumbnail.save(tmp_path / "a.tif", **options)
    expected = np.array(picture.convert("RGB")).astype(int)
    assert near(read_image(tmp_path / "a.tif").numpy(), expected, most)


def test_colours_that_pillow_has_cut(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp().astype(np.uint16) * 257, photometric="rgb")
    with Image.open(tmp_path / "a.tif") as image:
        assert near(as_photo(image).numpy(), ramp(), 0)
        image.load()
        with pytest.raises(
            DataError, match=r"has 16 bits, of which Pillow has kept 8\. Give its path"
        ):
            as_photo(image)


def test_a_fax(tmp_path):
    picture = Image.fromarray(GREY > 100)
    for compression in ("group3", "group4"):
        picture.save(tmp_path / "a.tif", compression=compression)
        assert near(read_image(tmp_path / "a.tif").numpy(), np.array(picture) * 255, 0)


def test_stacks_and_pyramids(tmp_path, capsys):
    assert near(read(tmp_path, np.stack([GREY, GREY // 2]), photometric="minisblack"), GREY, 0)
    assert "has several pages; of such files the first is read" in capsys.readouterr().err
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(ramp(), photometric="rgb", subifds=1)
        file.write(ramp()[::2, ::2], photometric="rgb", subfiletype=1)
    assert near(read_image(tmp_path / "a.tif").numpy(), ramp(), 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation(tmp_path, orientation):
    turns = {3: 2, 6: 3, 8: 1}[orientation]
    extra = [(274, "H", 1, orientation, True)]
    found = read(tmp_path, ramp(), photometric="rgb", extratags=extra)
    assert near(found, np.rot90(ramp(), turns), 0)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_files_that_are_cut_short(tmp_path, compression, share):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", compression=compression, rowsperstrip=20)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="is damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("options", [{"rowsperstrip": 8}, {"tile": (16, 16)}])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("which", [0, 1])
def test_strips_and_tiles_that_are_left_out(tmp_path, options, compression, which):
    path = tmp_path / "a.tif"
    for nodata in (False, True):
        extra = [(42113, "s", 0, "7", True)] if nodata else []
        kind = {"photometric": "rgb", "compression": compression, "extratags": extra}
        tifffile.imwrite(path, ramp() | 1, **kind, **options)
        content = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as file:
            offsets, counts = (273, 279) if "rowsperstrip" in options else (324, 325)
            for code in (offsets, counts)[: 1 + which]:
                tag = file.pages[0].tags[code]
                size = tag.valuebytecount // tag.count
                at = tag.valueoffset + 3 * size
                content[at : at + size] = bytes(size)
        path.write_bytes(content)
        if not nodata:
            with pytest.raises(DataError, match="strips or tiles are missing from it"):
                read_image(path)
        elif which:
            assert read_image(path).shape == (40, 60, 3)


@pytest.mark.parametrize("compression", [None, "zlib", "tiff_lzw", "packbits", "zstd", "jpeg"])
def test_a_file_that_lacks_its_last_bytes_is_no_other_picture(tmp_path, compression):
    path = tmp_path / "a.tif"
    if compression in (None, "zlib"):
        options = {"rowsperstrip": 8, "compression": compression}
        tifffile.imwrite(path, ramp(), photometric="rgb", **options)
    else:
        Image.fromarray(ramp()).save(path, compression=compression)
    content = path.read_bytes()
    expected = read_image(path)
    for bytes_ in [*range(1, 60), *range(60, len(content) - 1, 7)]:
        path.write_bytes(content[:-bytes_])
        try:
            assert torch.equal(read_image(path), expected), bytes_
        except DataError as error:
            message = str(error)
            assert "cut short" in message or "empty" in message or "no known format" in message
            for foreign in ("zip()", "indices", "division", "unpack", "Error"):
                assert foreign not in message


@pytest.mark.parametrize("tail", [b"", b"\xff\xd9"])
def test_jpeg_strips_that_end_early(tmp_path, tail):
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 255, (120, 90, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, compression="jpeg")
    content = bytearray(path.read_bytes())
    assert read_image(path).shape == (120, 90, 3)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        at, length = page.dataoffsets[0], page.databytecounts[0]
    half = length // 2
    content[at + half : at + length] = tail + bytes(length - half - len(tail))
    path.write_bytes(content)
    with pytest.raises(DataError, match="its data end before the picture does"):
        read_image(path)


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY.astype(np.uint16), photometric="cfa")
    with pytest.raises(DataError, match="is raw data of a camera's sensor"):
        read_image(path)
    tifffile.imwrite(path, GREY)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 34712))
    )
    with pytest.raises(
        DataError, match="is a TIFF with JPEG2000 compression, which cannot be read"
    ):
        read_image(path)
    for width in (60, 100_000):
        huge = content.replace(
            struct.pack("<HHII", 256, 4, 1, 60), struct.pack("<HHII", 256, 4, 1, width)
        )
        huge = huge.replace(
            struct.pack("<HHII", 257, 4, 1, 40), struct.pack("<HHII", 257, 4, 1, 100_000)
        )
        path.write_bytes(huge)
        with pytest.raises(
            DataError, match="too large to be a photograph" if width > 60 else "cut short"
        ):
            read_image(path)


# Written by tifffile with imagecodecs, which is not needed to read them: 9 x 8 pixels of WIDE
LZW_CONTIG = (
    "O-%qQ0000801g2F00aO40096100;pA00aO40096100{vC00RI300RI30JZ@G00RI3009660003700RI300963000"
    "3I00aO400RI30K5Se00RI3009640003N00aO40096100aRS00RI300RI30LTFv00jU5009610L}p$00jU5009610"
    "M-E<00RI3009620003f00RI3009620003!00RI300963000000000G01yBW0002s0003i0004h080Q=03QGV0096"
    "1009610096100961fB+y+AUHw?0)s)}FgRQy4giM4A>aTA1Xuuq!OW1@+-f-=k4At1AQ56Q4P;6sP<c$UR|8}K0A"
    "MsEo(C3%&L-l?%<^|Vp1?qW004kRfB+5<075`12t+Cw2>?Rju^4<hClZK4zyMGyat#-HNF-6243b9*dH?{xa72C}"
    "0xU%46Df?oYYCanrjTGj(p@-SOsF#Y9Rh_%qCh}^0097#000gU075`w2t+Cw2>?Rju^4<hClZK4;2;"
)
LZW_PLANES = (
    "Nl7XI2mk;84FCWE1ONd5000O8000321ONd5000R9000630{{a600620000940{{U4000F5000I70{{U400062000"
    "pI1ON#D006K6000#M0{{U400093000&N1ONd5000C4000*O0{{sC007hg000^R1pom6008Cy000{S1pom6008a)0"
    "00~T0{{U400062001Zf0{{U40003100000000mG5C9MW00961N&x@>l>q<%ssR81%K-oY?EwG)_yGU_F9HAnZvp@"
    "SN&rg$6#yXsA^-~jHvm8Y6#xMM000310003100031000000000000000fB+yt004jhFaQt$1ponn0B`_+03iSffC"
    "4Z8kN_nB34j7{0RR9&01$u#FaZz%MF0_i1aJX>0AT<afCexDkN{->8Gr_GfPjDj002OM5I_VN0SEv>fDph0H~~Na"
    "P=FLb1sDNH08)Syzy&w~fB;~C7(fOX0f+!%fEd6AI03)_aDW^@2N(g!0CIpFzy~-$K!5@O0DyoXKnNHD2mpeBAix"
    "MXKtO;1AW%3Y6aXv$!XZ$YWGt`(hs0tLIFb+t7K}yXQJ4sTEC7%wBn}M)ZUJF1xKuV62m{0-Q5d95Xb6kOV-dL21"
    "b`R;FeoGr4F!OJfC0b|C?pOI1%VpC4DbNV0+#^3z$Ne#3<Uy)L?VK48@vX$0w2JzD0ER59|AbQpzt{C5di>z0l*1"
    "x2%HAD0ujK?a5<b3_XR+oU>A4|#s!8l!7K1u%o_qPfS~~RY-|=62OGi=CKw3*1s#GS5$RB@CjkI}0l)%q85|5}1f"
    "ju-aC;mi=L*0;"
)
ZSTD_TILES = (
    "Nl7XI2mk;84gdfF1ONd5000O8000321ONd5000R9000630{{a6006cC000940{{U4002<K000I70{{U400062000"
    "#M0{{U400093000^R1pom6006uI000{S1pom6006`Q000~T0{{U400031001Zf0{{U400031002S(1ONd5000mG0"
    "02V)1ONd5000mG002Y*1ONd5007Vc002b+1ONd50046V00000000mG5C9MW0RR910RR910RR910RR9100000D77#"
    "BU;qV83jk)BPcV=-=}^+wq8@Te&GdjNW;s`Bs+e6~F&FxSLIyHDBls$9fH6=N`u=8RN;0LCQVKu-KmbDk%hRpU#p"
    "yP5X{rugm?lJ*r6{3`QgmHVQ6n;8QXQGR%!^E1CM1)VsgMavl*nWy9>_!`dM236bB!&9=!l2`oF42v_6c?zBL;RF"
    "bA%nn+hAvLLfBD^&JHsE!Zyr0W1F{4v5i}fY}0lVY{OO^+pJB6ZPcP~gNyB;3!@y-4gL%YP{98o1PFhJ(!;+YXZS"
    "P35&wnM;ja+7KO#(c=!a<ph<;ut2K~79iGEr)ML(>!qMy}y(T{5Mez5Vtf*mGEph0@f3s{iedxnDa+yg+6Ui<V&k"
    "3C{YZ~ZpXQ;(h=J`OPO3gfEbmFEc$uQ)%jc%}I-yu!R4URkaYuP8@<1szoo0Kp7YFaQw@Km-F2!2m=s01*s81OpH"
    "OAOf@l!oUe=2ZVtWX$uz"
)
FLOAT_PREDICTOR = (
    "Nl7XI2mk;84*&oG1ONd5000O8000321ONd5000R9000630{{a6006=O000940{{U4000O8000I70{{U400062000"
    "pI1ONd5007_s000#M0{{U400093000&N1ONd5000R9000*O1ONd5008F!000^R1pom60077U000{S1pom6007Vc0"
    "00~T0{{U400031001Zf0{{U400031002D!0{{U400093002_~0{{a6007tk00000001BWAOIi$0RR910RR910RR9"
    "10RR910{{a60{{R3c${sLJ!lj`7>1uy3|uD{3<$B1?0_cNq;UPYy~CV}-$E+2N-rjOTU&@u8zTP9f{nGc2;vAL9O"
    "(``P(eg?3k!=Fh~N)IuyJN`%Z22Ik6m`yeZF^|{h)o3;i@rOZ@AC^4FWMlph9W1gcsaS2_{q?c2u~!$1HrcQ>}&e"
    "1P6BTyZM9fE%>9kEp%eeMx0O_bJbrsUB~?MwBifOAUWnSd6c@2l6iinFoF_9Ar-$?<sUX#TuwB%G<Sqcfq!zyU$+"
    "g+w$ERDM&*dXJR+Y-U0NvuzpVJ~1g(zaAKah+$=f96x#q5LEoLraPBE)EvSn7b>HhNh)h7x=Y3M&Bduernbwqa@*"
    "Ft<nCAQsZ9~#FWY$UJ|_?JU|2cHgp&P13W!OutUr|<GVAU~dJ=gNlsQsuWu#jox8zdt9FlEa#N!j%}uj1)79XzBO"
    "FQ;JRRCwouBU~}w!>~g8Q-n`?xCL$E6KUy)4@9$Gd({d{CugA<*ex|k>o0D|E`TWlY6uF1g*T`Pjo?yc)nO9_K@Y"
    "5an*~>qFwP{ELe=%l0Vm|mes#iX&!dIVPzZ=eHZw>y^8#|x-_|^Q}Y-(-<zVm-><bVCO(_8rbOMUOZ?gFopPp7@H"
    "^Z6f)=B>E"
)
FOUR_BITS = (
    "Nl7XI2mk;83;+ND1ONd5000O8000321ONd5000R9000630{{U4000C4000940{{U400031000I70{{U400031000"
    "pI1ONd5006K6000#M0{{U400031000&N1ONd5000R9000*O1ONd5001Na000^R1pom6005o<000{S1pom6005={0"
    "01Zf0{{U4000310000000031000310003100031000000V73c5;RtLBSmM4G*)<;MQ4etR(P7cXNjxLc$&Q4iL1@"
    ";"
)
TWELVE_BITS = (
    "Nl7XI2mk;83;+ND1ONd5000O8000321ONd5000R9000630{{U4000aC000940{{U400031000I70{{U400031000"
    "pI1ONd5006K6000#M0{{U400031000&N1ONd5000R9000*O1ONd5003+N000^R1pom6005o<000{S1pom6005={0"
    "01Zf0{{U40003100000000310003100031000310000000Hzqh1`7!#Ji2G01@>*mEC<A#k-xY03r51rQUrh#=EV"
    "q05SJIwcmX?$Gg3+073XZ#o&EO$h*z308#lq)!}_v$-CXL0Acz*<>Gy5%De5d0CD?1_2Yec%e(!v0D=5J1>}8+%)"
    "AY>"
)

ROWS, COLUMNS = np.mgrid[:9, :8]
WIDE = np.stack([COLUMNS * 4096 + ROWS, ROWS * 300, ROWS * COLUMNS * 100 + 7], -1).astype(np.uint16)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (LZW_CONTIG, WIDE),
        (LZW_PLANES, WIDE),
        (ZSTD_TILES, WIDE),
        (FLOAT_PREDICTOR, (WIDE / 7).astype(np.float32)),
        (FOUR_BITS, (ROWS + COLUMNS) % 16),
        (TWELVE_BITS, COLUMNS * 500 + ROWS),
    ],
    ids=["lzw", "lzw planes", "zstd tiles", "float predictor", "4 bits", "12 bits"],
)
def test_what_tifffile_alone_cannot_decode(content, values):
    page = read_page(base64.b85decode(content), "a.tif")
    assert isinstance(page, PixelValues)
    assert np.array_equal(page.values, values)


def test_low_and_odd_bits_are_scaled(tmp_path, capsys):
    (tmp_path / "a.tif").write_bytes(base64.b85decode(FOUR_BITS))
    assert near(read_image(tmp_path / "a.tif").numpy(), (ROWS + COLUMNS) % 16 * 17, 0)
    (tmp_path / "a.tif").write_bytes(base64.b85decode(TWELVE_BITS))
    assert near(read_image(tmp_path / "a.tif").numpy(), (COLUMNS * 500 + ROWS) / 4095 * 255, 0.5)


def png_of_16_bits(values):
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 16, kinds[channels], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("white", [4095, 65535])
def test_png_of_16_bits(tmp_path, capsys, channels, white):
    picture = ramp()[..., : 1 if channels < 3 else 3]
    if channels in (2, 4):
        picture = np.dstack([picture, np.where(GREY > 100, 255, 0)])
    content = png_of_16_bits(np.rint(picture * (white / 255)))
    (tmp_path / "a.png").write_bytes(content)
    expected = picture[..., : 1 if channels < 3 else 3]
    if channels in (2, 4):
        expected = np.where((GREY > 100)[..., None], expected, 255)
    found = read_image(tmp_path / "a.png")
    assert near(found.numpy(), np.broadcast_to(expected, (40, 60, 3)), 1)
    assert ("read as 12 bits" in capsys.readouterr().err) == (white == 4095)
    with Image.open(io.BytesIO(content)) as image:
        assert torch.equal(as_photo(image), found)
