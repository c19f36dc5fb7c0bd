from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from ssrseg.data.images import read_image
from ssrseg.data.notices import say_again
from ssrseg.errors import DataError

ROWS, COLUMNS = np.mgrid[:40, :60]
PICTURE = np.stack([COLUMNS * 4, ROWS * 6, ROWS + COLUMNS], -1).astype(np.uint8)


@pytest.fixture(autouse=True)
def nothing_said_before():
    say_again()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, rows, bits=8, kind=2, size=(60, 40), extra=b""):
    """Rows are bytes or big-endian numbers."""
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    path.write_bytes(begin + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("bits", [8, 16])
def test_missing_rows(tmp_path, bits):
    rows = PICTURE if bits == 8 else (PICTURE.astype(">u2") * 257).astype(">u2")
    assert np.array_equal(read_image(png(tmp_path / "a.png", rows, bits)).numpy(), PICTURE)
    with pytest.raises(DataError, match="holds fewer rows than its header says"):
        read_image(png(tmp_path / "a.png", rows[:20], bits))
    assert not read_image(png(tmp_path / "a.png", rows * 0, bits)).any()  # black is no fault


def test_every_changed_bit_is_found(tmp_path):
    path = png(tmp_path / "a.png", PICTURE)
    content = path.read_bytes()
    begin = content.index(b"IDAT") + 4
    for place in range(begin, len(content) - 16, 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged or cut short"):
            read_image(path)


@pytest.mark.parametrize("scale", [1, 16, 257])
@pytest.mark.parametrize("colour", [False, True])
def test_one_transparent_colour_of_16_bits(tmp_path, scale, colour):
    picture = PICTURE if colour else PICTURE[..., :1]
    values = (picture.astype(np.uint16) * scale).astype(">u2")
    key = values[5, 5]
    path = tmp_path / "a.png"
    png(path, values, 16, 2 if colour else 0, extra=chunk(b"tRNS", key.tobytes()))
    hidden = (values == key).all(-1, keepdims=True)
    expected = np.broadcast_to(np.where(hidden, 255, picture), (40, 60, 3)).astype(int)
    assert np.abs(read_image(path).numpy() - expected).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_one_transparent_grey_of_few_bits(tmp_path, bits):
    values = COLUMNS.astype(np.uint8) % 2**bits
    ones = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(40, -1)
    for key in (0, 1):
        rows = np.packbits(ones, axis=1)
        extra = chunk(b"tRNS", struct.pack(">H", key))
        found = read_image(png(tmp_path / "a.png", rows, bits, 0, extra=extra)).numpy()
        assert np.array_equal(
            found[..., 0], np.where(values == key, 255, values * (255 // (2**bits - 1)))
        )


def srgb_of(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def test_gamma_and_primaries(tmp_path, capsys):
    path = tmp_path / "a.png"
    linear = chunk(b"gAMA", struct.pack(">I", 100000))
    expected = srgb_of(PICTURE / 255)
    for scale, bits in ((1, 8), (257, 16)):
        rows = (PICTURE.astype(np.uint16) * scale).astype(">u2" if bits == 16 else "u1")
        found = read_image(png(path, rows, bits, extra=linear)).numpy()
        assert np.abs(found - expected).max() < 4 and np.abs(found - expected).mean() < 0.8
    for harmless in (chunk(b"gAMA", struct.pack(">I", 45455)), linear + chunk(b"sRGB", b"\0")):
        assert np.array_equal(read_image(png(path, PICTURE, extra=harmless)).numpy(), PICTURE)
    # Display P3's red, green and white by definition
    colours = np.array([[(255, 0, 0), (200, 200, 200), (0, 0, 0), (120, 180, 60)]], np.uint8)
    p3 = chunk(b"cICP", bytes([12, 13, 0, 1]))
    found = read_image(png(path, colours, size=(4, 1), extra=p3)).numpy()[0].tolist()
    assert found[:3] == [[255, 0, 0], [200, 200, 200], [0, 0, 0]]
    assert np.abs(np.subtract(found[3], (100, 182, 26))).max() <= 2  # by matrices
    assert capsys.readouterr().err == ""
    read_image(png(path, PICTURE, extra=chunk(b"cICP", bytes([9, 16, 0, 1]))))
    assert "has colours (cICP (9, 16, 0, 1)) that are not converted" in capsys.readouterr().err
