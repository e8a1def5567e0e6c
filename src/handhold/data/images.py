"""Whether an image file is whole, and how large the image is, without decoding it."""

from __future__ import annotations

import io
import struct
from typing import IO

from PIL import ExifTags, Image

from handhold.errors import FileFormatError

END_BYTES = 64  # of an image hold its ending, mostly
HEAD_BYTES = 8  # say which kind it is
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
ENDS = {JPEG: b"\xff\xd9", PNG: b"IEND"}
# what Pillow raises for a damaged head, one that tells an absurd size included
_UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length; D0 to D7 stand inside a scan


def ends_well(head: bytes, tail: bytes) -> bool:
    """Whether the last bytes of a JPEG or PNG are its ending. False does not yet mean that it is
    cut short: cameras append previews and films."""
    return any(head.startswith(kind) and end in tail for kind, end in ENDS.items())


def check_image_end(data: bytes, place: str) -> None:
    """Raise FileFormatError for an image that is cut short: decoders fill what is missing with grey
    and say nothing. What the bytes are counts, not the name's ending."""
    if ends_well(data[:HEAD_BYTES], data[-END_BYTES:]):
        return
    if data.startswith(JPEG):
        whole = _jpeg_ends(data)
    elif data.startswith(PNG):
        whole = _png_ends(data)
    else:
        try:
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
        except _UNREADABLE as error:
            raise FileFormatError(f"{place}: the image is cut short or no image") from error
        return
    if not whole:
        raise FileFormatError(f"{place}: the image is cut short")


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG's own end marker follows its scans, whatever follows that."""
    at = 2
    while 0 <= at < len(data) - 1:
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == _END_OF_IMAGE:
            return True
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            while marker == _START_OF_SCAN:  # skip the scan's bits: ff 00 is a byte of them
                at = data.find(b"\xff", at)
                if at < 0 or at + 1 >= len(data):
                    return False
                if data[at + 1] != 0 and data[at + 1] not in _ALONE:
                    break
                at += 2
    return False


def _png_ends(data: bytes) -> bool:
    at = len(PNG)
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def image_size(source: bytes | IO[bytes], place: str) -> tuple[int, int]:
    """Width and height of an image file, upright as `Files.image` gives it; only its head is looked
    at. Raises FileFormatError."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            (width, height), turned = picture.size, picture.getexif().get(ExifTags.Base.Orientation)
    except _UNREADABLE as error:
        raise FileFormatError(f"{place}: expected an image: {error}") from error
    return (height, width) if turned in (5, 6, 7, 8) else (width, height)


def checked_size(data: bytes, place: str) -> tuple[int, int]:
    """`image_size` of an image that is whole; raises FileFormatError."""
    check_image_end(data, place)
    return image_size(data, place)
