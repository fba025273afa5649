"""Image files are read as OpenCV reads them; a file that cannot be used is named in one message."""

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from models_mm.data.fields import shown
from models_mm.errors import UserError

ENDS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # first and last marker: JPEG, PNG


Decoder = Callable[[bytes], np.ndarray | None]  # the bytes of a file to pixels


def decode_upright(content: bytes) -> np.ndarray | None:
    """Decode to BGR (H, W, 3), turned as the camera's EXIF tag says; ``None`` if it is no image."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def decode_unchanged(content: bytes) -> np.ndarray | None:
    """Decode with all channels of the file and its orientation; ``None`` if it is no image."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def read_image(path: str | Path, decoder: Decoder = decode_upright) -> np.ndarray:
    """Read an image file; by default upright, BGR (H, W, 3).

    Raises:
        UserError: as :func:`read_file` and :func:`decode`.
    """
    return decode(read_file(path), str(path), decoder)


def read_file(path: str | Path) -> bytes:
    """Read the bytes of a regular file.

    Raises:
        UserError: the file is missing or empty, cannot be read, or is a folder, pipe or device.
    """
    try:
        regular_file(path)
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"image {shown(str(path))} cannot be read: {error.strerror}") from error


def regular_file(path: str | Path, what: str = "image") -> None:
    """Check that a path leads to a file with content. To open a pipe could wait for ever.

    Args:
        path: of the file.
        what: the file is called in messages.

    Raises:
        UserError: the file is missing or empty, or it is a folder, pipe or device.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise UserError(f"{what} not found: {shown(str(path))}") from error
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {shown(str(path))} cannot be read: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{what} {shown(str(path))} cannot be read: not a file")
    if found.st_size == 0:
        raise UserError(f"{what} {shown(str(path))} is empty: 0 bytes")


def decode(content: bytes, path: str, decoder: Decoder = decode_upright) -> np.ndarray:
    """Decode an image file; by default to upright BGR pixels (H, W, 3).

    Args:
        content: the bytes of the file.
        path: the name of the file in messages.
        decoder: turns the bytes into pixels.

    Raises:
        UserError: the content is no image, is cut off, or is larger than OpenCV accepts.
    """
    path = shown(path)
    for start, end in ENDS:
        # a few bytes may follow the end marker; the pixel data never contain one
        if content.startswith(start) and end not in content[-1024:] and not _whole(content):
            raise UserError(f"image {path} is damaged: it is cut off ({len(content):,} bytes)")
    try:
        pixels = decoder(content)
    except Exception as error:  # decoders raise errors of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"image {path} cannot be decoded: {reason}") from error
    if pixels is None:
        raise UserError(f"{path} is no image, or a damaged one ({len(content):,} bytes)")
    return pixels


def _whole(content: bytes) -> bool:
    """Whether an image is complete that has more data behind it, such as a phone's short film."""
    try:
        from PIL import Image  # exported detectors need not have it, and then cannot tell

        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except ImportError:
        return True
    except Exception:  # Pillow raises errors of many types
        return False
    return True


def check_size(path: str, image: np.ndarray, info: dict) -> None:
    """Compare the size of an image (H, W, ...) with its annotation entry.

    Args:
        path: the name of the file in messages.
        image: its pixels.
        info: the entry; ``width`` and ``height`` may be missing.

    Raises:
        UserError: the sizes differ.
    """
    said = (info.get("width"), info.get("height"))
    size = image.shape[1::-1]
    if all(said) and said != size:
        raise UserError(
            f"image {shown(path)} has {size[0]}x{size[1]} pixels (upright), its annotation file "
            f"says {said[0]}x{said[1]}"
        )
