"""Videos of pictures, which can be played up to their last frame whatever ends the program.

OpenCV writes the table of a video's frames when it closes the file: without it nothing of the file
can be played. Here each frame is a JPEG in a fragment of its own (ISO/IEC 14496-12, "movie
fragments"), which is handed to the system as soon as it is complete.
"""

import struct
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from models_mm.errors import UserError

QUALITY = 90  # of the JPEGs, 1 to 100
TICKS = 1000  # of the clock in which times are counted, per frame
JPEG = 0x6C  # ISO/IEC 14496-1: object type "visual ISO/IEC 10918-1"
UNITY = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)  # no rotation, no scaling
DEFAULT_RATE = 25.0  # frames per second, of a source that does not say
MOST = 1000.0  # frames per second; a greater rate is a fault of the source


@contextmanager
def video_writer(file: Path, source: Path):
    """Open a video for pictures; the first picture decides the size.

    Args:
        file: the new video, MPEG-4; it is made with the first picture.
        source: a video of the same frame rate.

    Yields:
        A function that appends a BGR picture (H, W, 3). It raises :class:`UserError` if a picture
        has another size than the first, or sides of 2**16 pixels or more.
    """
    reader = cv2.VideoCapture(str(source))
    rate = reader.get(cv2.CAP_PROP_FPS)
    reader.release()
    clip: Clip | None = None

    def write(picture: np.ndarray) -> None:
        nonlocal clip
        if clip is None:
            clip = Clip(file, picture.shape[1::-1], rate if 0 < rate <= MOST else DEFAULT_RATE)
        clip.write(picture)

    try:
        yield write
    finally:
        if clip is not None:
            clip.file.close()


class Clip:
    """A fragmented MPEG-4 file that grows by one frame at a time.

    Args:
        path: of the file.
        size: width and height of all frames in pixels.
        rate: frames per second.

    Raises:
        UserError: a side of 2**16 pixels or more, which the format cannot hold.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float):
        self.path, self.size, self.frames = path, size, 0
        if max(size) >= 2**16:
            raise UserError(f"{path}: no video holds frames of {size[0]}x{size[1]} pixels")
        head = box(b"ftyp", b"isom", number(512), b"isom", b"iso5", b"mp41") + movie(size, rate)
        self.length_at = head.index(b"mehd") + 8  # where the file says how long it is
        self.file = open(path, "wb", buffering=0)
        self.file.write(head)

    def write(self, picture: np.ndarray) -> None:
        """Append a BGR picture (H, W, 3).

        Raises:
            UserError: it has another size than the first one.
        """
        if picture.shape[1::-1] != self.size:
            raise UserError(f"{self.path}: a frame has another size than the first")
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        self.file.write(fragment(jpeg, self.frames) + box(b"mdat", jpeg))
        self.frames += 1
        self.file.seek(self.length_at)
        self.file.write(number(self.frames * TICKS, 8))
        self.file.seek(0, 2)


def number(value: int, size: int = 4) -> bytes:
    """A whole number in some bytes, the highest first."""
    return value.to_bytes(size, "big")


def box(name: bytes, *content: bytes) -> bytes:
    """A box of the file format: its length, its name, its content."""
    body = b"".join(content)
    return number(len(body) + 8) + name + body


def full(name: bytes, version: int, flags: int, *content: bytes) -> bytes:
    """A box with a version and flags."""
    return box(name, number(version, 1), number(flags, 3), *content)


def movie(size: tuple[int, int], rate: float) -> bytes:
    """The box ``moov``: a track of JPEGs whose frames are all in fragments."""
    clock = number(round(rate * TICKS))  # per second
    width, height = size
    # descriptors of ISO/IEC 14496-1: a tag, a length, and then
    decoder = bytes([4, 13, JPEG, 0x11]) + bytes(3 + 4 + 4)  # a visual stream, rates unknown
    stream = bytes([3, 3 + len(decoder) + 3, 0, 1, 0]) + decoder + bytes([6, 1, 2])
    entry = box(
        b"mp4v",
        *(bytes(6), number(1, 2), bytes(16), number(width, 2), number(height, 2)),
        *(number(72 << 16) * 2, bytes(4), number(1, 2), bytes(32), number(24, 2), b"\xff\xff"),
        full(b"esds", 0, 0, stream),
    )
    table = box(
        b"stbl",
        full(b"stsd", 0, 0, number(1), entry),
        *(full(name, 0, 0, number(0)) for name in (b"stts", b"stsc")),
        full(b"stsz", 0, 0, bytes(8)),
        full(b"stco", 0, 0, number(0)),
    )
    reference = box(b"dinf", full(b"dref", 0, 0, number(1), full(b"url ", 0, 1)))
    media = box(
        b"mdia",
        full(b"mdhd", 0, 0, bytes(8), clock, bytes(4), number(0x55C4, 2), bytes(2)),  # "und"
        full(b"hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"\0"),
        box(b"minf", full(b"vmhd", 0, 1, bytes(8)), reference, table),
    )
    track = box(
        b"trak",
        full(
            *(b"tkhd", 0, 3, bytes(8), number(1), bytes(8), bytes(8), bytes(8), UNITY),
            *(number(width << 16), number(height << 16)),
        ),
        media,
    )
    header = full(
        *(b"mvhd", 0, 0, bytes(8), clock, bytes(4), number(1 << 16), number(1 << 8, 2)),
        *(bytes(10), UNITY, bytes(24), number(2)),
    )
    fragments = box(
        b"mvex",
        full(b"mehd", 1, 0, bytes(8)),
        full(b"trex", 0, 0, number(1), number(1), bytes(12)),
    )
    return box(b"moov", header, track, fragments)


def fragment(jpeg: bytes, place: int) -> bytes:
    """The box ``moof`` of the frame at a place, 0 for the first; its JPEG follows in ``mdat``."""
    boxes = (
        full(b"tfhd", 0, 0x20000, number(1)),  # offsets count from this fragment
        full(b"tfdt", 1, 0, number(place * TICKS, 8)),
    )
    length = 8 + 16 + 8 + sum(map(len, boxes)) + 28  # of this box, of which 28 are `trun`
    values = (number(1), number(length + 8), number(TICKS), number(len(jpeg)))
    run = full(b"trun", 0, 0x301, *values)  # offset, and of each frame its duration and length
    return box(b"moof", full(b"mfhd", 0, 0, number(place + 1)), box(b"traf", *boxes, run))
