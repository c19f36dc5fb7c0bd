"""8-bit PNGs of any size, written and read a few rows at a time."""

from __future__ import annotations

import hashlib
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from ssrseg.data.files import atomic_write, writing

Rows = UInt8[np.ndarray, "rows width"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3
_IN_MEMORY = 1 << 26  # bytes; what is longer waits on the disk
_PIECE = 1 << 20


class RowsPng:
    """A grey or indexed PNG that grows row by row in a ``with``, and is written when it is whole.

    Attributes:
        size: Height and width.
        pixels: How often each value occurs so far.
    """

    def __init__(
        self,
        size: tuple[int, int],
        folder: Path,
        palette: UInt8[np.ndarray, "256 3"] | None = None,
    ) -> None:
        """Begin an empty picture.

        Args:
            folder: In which a file without a name may hold what has been added so far.
            palette: Makes it indexed.
        """
        self.size, self._folder, self._palette = size, folder, palette
        self.pixels = np.zeros(256, np.int64)
        self._packed = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._zlib, self._sum = zlib.compressobj(6), hashlib.sha256(str(size).encode())

    def __enter__(self) -> RowsPng:
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what was not saved."""
        self._packed.close()

    def add(self, rows: Rows) -> None:
        """Append rows; OutputError if the disk takes no more."""
        rows = np.ascontiguousarray(rows)
        self.pixels += np.bincount(rows.ravel(), minlength=256)
        self._sum.update(rows.data)
        filters = np.zeros((len(rows), 1), np.uint8)  # none: runs of ids are as short as can be
        packed = self._zlib.compress(np.concatenate([filters, rows], 1).data)
        with writing(self._folder):
            self._packed.write(packed)

    def add_shares(self, rows: Float[np.ndarray, "rows width"]) -> None:
        """Append rows of values in [0, 1], 255 = 1."""
        self.add(np.rint(rows.clip(0, 1) * 255).astype(np.uint8))

    @property
    def shown(self) -> UInt8[np.ndarray, " values"]:
        """Each value that occurs."""
        return self.pixels.nonzero()[0].astype(np.uint8)

    @property
    def digest(self) -> str:
        """Of size and pixels, 64 hexadecimal digits."""
        return self._sum.hexdigest()

    def save(self, path: Path, texts: Mapping[str, str]) -> None:
        """Write the file, with text chunks by keyword before its pixels; once, all rows are there.

        Raises:
            OutputError: If it cannot be written.
        """
        with writing(path):
            self._packed.write(self._zlib.flush())
        kind = _GREY if self._palette is None else _INDEXED
        head = struct.pack(">IIBBBBB", self.size[1], self.size[0], 8, kind, 0, 0, 0)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            file.write(_SIGNATURE + _chunk(b"IHDR", head))
            for keyword, text in texts.items():
                file.write(
                    _chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1"))
                )
            if self._palette is not None:
                file.write(_chunk(b"PLTE", self._palette.tobytes()))
            self._packed.seek(0)
            while piece := self._packed.read(_PIECE):
                file.write(_chunk(b"IDAT", piece))
            file.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a PNG by its header; None if it is none."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(_SIGNATURE):
        return None
    width, height = struct.unpack(">II", head[16:])
    return height, width


class PngRows:
    """A PNG as ``RowsPng`` writes it, read a few rows at a time.

    Attributes:
        size: Height and width.
        texts: Its text chunks by keyword.
        indexed: Whether it has a palette.
    """

    def __init__(self, path: Path) -> None:
        """Read all chunks before the pixels.

        Raises:
            ValueError: If the file is anything else.
        """
        self._path, self.texts = path, dict[str, str]()
        with path.open("rb") as file:
            if file.read(8) != _SIGNATURE:
                raise ValueError("it is no PNG")
            _, head = _read_chunk(file)
            if len(head) != 13:
                raise ValueError("its header is damaged")
            width, height, bits, kind, *rest = struct.unpack(">IIBBBBB", head)
            if bits != 8 or kind not in (_GREY, _INDEXED) or any(rest) or not width * height:
                raise ValueError("it is in another form")
            self.size, self.indexed = (height, width), kind == _INDEXED
            while True:
                self._begin = file.tell()
                name, body = _read_chunk(file, skip=b"IDAT")
                if name == b"IDAT":
                    break
                if name == b"tEXt" and b"\0" in body:
                    keyword, _, text = body.partition(b"\0")
                    self.texts[keyword.decode("latin-1")] = text.decode("latin-1")

    def __iter__(self) -> Iterator[Rows]:
        """The rows from top to bottom, in pieces of about a megabyte.

        Raises:
            ValueError: If the file is damaged or cut short, or its rows are filtered.
        """
        height, width = self.size
        rest, done = b"", 0
        for piece in self._unpacked():
            rest += piece
            whole = len(rest) // (width + 1)
            if done + whole > height:
                raise ValueError("it has more rows than its header says")
            lines = np.frombuffer(rest, np.uint8, whole * (width + 1)).reshape(whole, width + 1)
            if lines[:, 0].any():
                raise ValueError("its rows are filtered")
            if whole:
                yield lines[:, 1:]
            rest, done = rest[whole * (width + 1) :], done + whole
        if done != height or rest:
            raise ValueError("it has fewer rows than its header says")

    def _unpacked(self) -> Iterator[bytes]:
        unpack = zlib.decompressobj()
        with self._path.open("rb") as file:
            file.seek(self._begin)
            name = b""
            try:
                while name != b"IEND":
                    name, body = _read_chunk(file)
                    while name == b"IDAT" and body:
                        yield unpack.decompress(body, max(_PIECE, 2 * self.size[1]))
                        body = unpack.unconsumed_tail
                yield unpack.flush()
            except zlib.error as error:
                raise ValueError(f"its pixels are damaged ({error})") from error


def _read_chunk(file: BufferedReader, skip: bytes = b"") -> tuple[bytes, bytes]:
    head = file.read(8)
    if len(head) < 8:
        raise ValueError("it is cut short")
    length, kind = struct.unpack(">I4s", head)
    if kind == skip:
        return kind, b""
    body = file.read(length)
    checksum = file.read(4)
    if len(body) < length or checksum != struct.pack(">I", zlib.crc32(kind + body)):
        raise ValueError(f"its {kind.decode('latin-1')} data are damaged or cut short")
    return kind, body
