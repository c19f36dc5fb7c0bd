"""Is all of a JPEG there? The decoder fills up what is missing with grey and says nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import ImageFile, JpegImagePlugin

_MARKER = re.compile(rb"\xff[^\x00\xff]")  # what ends compressed data
_MARKER_BUT_RESTART = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_HUFFMAN, _PROGRESSIVE = (0xC0, 0xC1, 0xC2), 0xC2
_SCAN, _END, _INTERVAL = 0xDA, 0xD9, 0xDD
_ONES = b"\xff\x00" * 8  # more than the decoder looks ahead, and no code of any picture
_FILLER = bytes(range(1, 255)) * 2
_LEFT_OVER = 64  # bytes behind a picture, at most: some cameras leave a few

_ENDS_EARLY = "its data end before the picture does"
_OUT_OF_STEP = "its data do not fit the picture, as if some were lost on the way or overwritten"


@dataclass
class _Scan:
    """One pass over a picture."""

    components: list[int]
    first: int
    last: int
    low_bit: int
    begin: int  # of its compressed data
    end: int  # where the marker stands that follows them
    interval: int  # MCUs between restarts, 0 = none


@dataclass
class _Layout:
    kind: int = 0
    size: tuple[int, int] = (0, 0)
    factors: dict[int, tuple[int, int]] = field(default_factory=dict)  # by component
    scans: list[_Scan] = field(default_factory=list)


def load_whole(image: ImageFile.ImageFile, content: bytes) -> None:
    """Decode a JPEG that Pillow has opened, if all of its picture is there.

    The decoder gets the compressed data without the end marker, which would let it make up what is
    missing: a picture in one scan is whole if it needs the last bytes and no more. Of one in
    several scans, all of them must be there, and bytes put behind the last must not change it,
    which costs decoding it twice.

    Args:
        content: The file.

    Raises:
        OSError: If it ends early or parts are missing; also other errors of the decoder.
    """
    layout = _layout(content)
    if layout.kind not in _HUFFMAN or not layout.scans:  # kinds that nobody uses
        image.load()
        return
    for scan in layout.scans:
        _check_restarts(content, scan, layout)
    if layout.kind != _PROGRESSIVE and len(layout.scans[0].components) == len(layout.factors):
        _load_one_scan(image, content, layout.scans[0])
    else:
        _check_scans(layout)
        image.load()
        _check_last_scan(image, content, layout.scans[-1])


class _Stepwise(io.BytesIO):
    """A file that is read up to ``step`` first, so that its place tells whether more was wanted."""

    step = 0

    def read(self, size: int | None = -1, /) -> bytes:
        left = self.step - self.tell()
        return super().read(left if left > 0 and (size is None or not 0 <= size < left) else size)


def _load_one_scan(image: ImageFile.ImageFile, content: bytes, scan: _Scan) -> None:
    file = _Stepwise(content[: scan.end] + _ONES)
    file.step = max(scan.begin, scan.end - _LEFT_OVER)
    image.fp = file
    try:
        image.load()
    except OSError as error:
        raise OSError(_ENDS_EARLY if "truncated" in str(error) else str(error)) from error
    if file.tell() > file.step or file.step == scan.begin:
        return
    padded = content[: scan.end].rstrip(b"\0")
    if scan.end - len(padded) < _LEFT_OVER:
        raise OSError(_OUT_OF_STEP)
    try:  # zeros, behind the picture or instead of it
        JpegImagePlugin.JpegImageFile(io.BytesIO(padded + _ONES)).load()
    except OSError as error:
        raise OSError(_ENDS_EARLY) from error


def _check_last_scan(image: ImageFile.ImageFile, content: bytes, scan: _Scan) -> None:
    data = content[: scan.end]
    stripped = data.rstrip(b"\0")
    longer = (stripped if len(data) - len(stripped) > 8 else data) + _FILLER + b"\xff\xd9"
    again = JpegImagePlugin.JpegImageFile(io.BytesIO(longer))
    again.draft(image.mode, image.size)
    again.load()
    if again.tobytes() != image.tobytes():
        raise OSError(_ENDS_EARLY)


def _check_scans(layout: _Layout) -> None:
    """Every coefficient of every component has to arrive with all of its bits."""
    open_ = {(part, at) for part in layout.factors for at in range(64)}
    for scan in layout.scans:
        if scan.low_bit == 0:
            open_ -= {(part, at) for part in scan.components for at in range(scan.first, scan.last)}
    if open_:
        raise OSError(_ENDS_EARLY)


def _check_restarts(content: bytes, scan: _Scan, layout: _Layout) -> None:
    """Restart markers are counted from 0 to 7, again and again; as many as the size asks for."""
    if scan.interval == 0:
        return
    wide = max(factor[0] for factor in layout.factors.values())
    high = max(factor[1] for factor in layout.factors.values())
    across, down = 8 * wide, 8 * high
    width, height = layout.size
    if len(scan.components) == 1:  # then an MCU is one block, and only true rows and columns count
        x, y = layout.factors[scan.components[0]]
        width, height, across, down = -(-width * x // wide), -(-height * y // high), 8, 8
    intervals = -(-(-(-width // across) * -(-height // down)) // scan.interval)
    found = [each[0] for each in _RESTART.findall(content, scan.begin, scan.end)]
    expected = [0xD0 + at % 8 for at in range(intervals)]  # some end with one that nobody needs
    if found not in (expected, expected[:-1]):
        raise OSError(_ENDS_EARLY if found == expected[: len(found)] else _OUT_OF_STEP)


def _layout(content: bytes) -> _Layout:
    """Frame and scans of the first picture of a file."""
    found, interval = _Layout(), 0
    for marker, at, end in _segments(content):
        body = content[at:end]
        if marker in _FRAMES and not found.kind and len(body) >= 6:
            found.kind = marker
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            found.size = width, height
            parts = [body[at : at + 3] for at in range(6, len(body) - 2, 3)]
            found.factors = {each[0]: (each[1] >> 4 or 1, each[1] & 15 or 1) for each in parts}
        elif marker == _INTERVAL and len(body) == 2:
            interval = int.from_bytes(body, "big")
        elif marker == _SCAN and len(body) >= 4 and len(body) >= 4 + 2 * body[0]:
            components = [each for each in body[1 : 1 + 2 * body[0] : 2] if each in found.factors]
            first, last, bits = body[-3:]
            if found.kind != _PROGRESSIVE:
                first, last, bits = 0, 63, 0
            pattern = _MARKER_BUT_RESTART if interval else _MARKER
            behind = pattern.search(content, end)
            data_end = behind.start() if behind else len(content)
            while data_end > end and content[data_end - 1] == 0xFF:  # as a filler of markers
                data_end -= 1
            scan = _Scan(components, first, last + 1, bits & 15, end, data_end, interval)
            found.scans.append(scan)
    return found


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment of the first picture."""
    at = 2
    while (found := _MARKER_BUT_RESTART.search(content, at)) is not None:
        marker, at = found.group()[-1], found.end()
        if marker == _END:
            return
        if marker in (0x01, 0xD8):  # without a length
            continue
        end = at + int.from_bytes(content[at : at + 2], "big")
        yield marker, at + 2, end
        at = max(end, at)
