"""Videos of detections."""

from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from models_mm.errors import UserError


@contextmanager
def video_writer(file: Path, source: Path):
    """Open a video for pictures; the first picture decides the size.

    Args:
        file: the new video, MPEG-4.
        source: a video of the same frame rate.

    Yields:
        A function that appends a BGR picture (H, W, 3). It raises :class:`UserError` if OpenCV
        cannot write the video.
    """
    reader = cv2.VideoCapture(str(source))
    rate = reader.get(cv2.CAP_PROP_FPS) or 25.0
    reader.release()
    writer = None

    def write(picture: np.ndarray) -> None:
        nonlocal writer
        if writer is None:
            height, width = picture.shape[:2]
            code = cv2.VideoWriter_fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(file), code, rate, (width, height))
            if not writer.isOpened():
                raise UserError(f"this OpenCV cannot write {file}: use --no-pictures")
        writer.write(np.ascontiguousarray(picture))

    try:
        yield write
    finally:
        if writer is not None:
            writer.release()
