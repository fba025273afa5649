"""Images, folders and videos as the input of a prediction."""

import sys
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np

from models_mm.data.images import Decoder, decode_upright, read_image
from models_mm.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def find_inputs(inputs: list[str]) -> tuple[list[Path], list[Path]]:
    """Find the images and the videos in a list of files and folders.

    Args:
        inputs: files and folders; ``-`` stands for those that standard input lists, one per line.

    Raises:
        UserError: an input does not exist, a folder has no images, or standard input lists nothing.
    """
    files: list[Path] = []
    for name in listed(inputs):
        path = Path(name)
        if path.is_dir():
            found = [f for f in sorted(path.iterdir()) if f.suffix.lower() in IMAGES]
            if not found:
                raise UserError(f"{path} has no images ({', '.join(IMAGES)})")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"no such image, folder or video: {path}")
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    return [file for file in files if file not in videos], videos


def listed(inputs: list[str]) -> Iterator[str]:
    """The inputs, with the lines of standard input in the place of ``-``.

    Raises:
        UserError: standard input is a terminal, is not text, or lists nothing.
    """
    for name in inputs:
        if name != "-":
            yield name
            continue
        if sys.stdin is None or sys.stdin.isatty():
            raise UserError("`-` reads the paths from standard input: `ls *.jpg | ... -`")
        try:
            lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"standard input is not a list of paths: {error}") from error
        if not lines:
            raise UserError("standard input lists no image, folder or video")
        yield from lines


def read_images(
    files: list[Path], unread: list[str], decoder: Decoder = decode_upright
) -> Iterator[tuple[Path, np.ndarray]]:
    """Read images one after the other; those that cannot be read are left out.

    Args:
        files: the images.
        unread: gets a message for each image that cannot be read.
        decoder: of the images.

    Yields:
        The file and its pixels.
    """
    for file in files:
        try:
            yield file, read_image(file, decoder)
        except UserError as error:
            unread.append(str(error))


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of ``size`` items; the last one may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def frame_count(video: Path) -> int:
    """The number of frames that a video declares, at least 1.

    Raises:
        UserError: OpenCV cannot read the file as a video.
    """
    reader = cv2.VideoCapture(str(video))
    try:
        if not reader.isOpened() or not reader.grab():
            raise UserError(f"{video} is no video that OpenCV can read")
        return max(int(reader.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
    finally:
        reader.release()


def frames(video: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The frames of a video: the name ``video.mp4#0`` and BGR pixels (H, W, 3)."""
    reader = cv2.VideoCapture(str(video))
    try:
        for number in count():
            there, frame = reader.read()
            if not there:
                break
            yield f"{video.name}#{number}", frame
    finally:
        reader.release()
