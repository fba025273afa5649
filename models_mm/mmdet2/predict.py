"""Predicting for images, folders and videos: pictures, and COCO's JSON."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import cv2
import mmcv
import numpy as np

from models_mm.errors import UserError
from models_mm.mmdet2.inference import Detections, Detector, read_image
from models_mm.mmdet2.results import run_lengths
from models_mm.outputs import Outputs

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def predict(args: argparse.Namespace) -> None:
    """Predict as the options of tools/predict.py say.

    Raises:
        UserError: nothing to read; or, when all else is written, images that cannot be read.
    """
    files, videos = find_inputs(args.inputs)
    detector = Detector(args.config, args.checkpoint, args.device, args.score_thr, args.cfg_options)
    places = Outputs(args.out, [*files, *videos, args.config, args.checkpoint])
    file = places.path("predictions.json")
    content = CocoFile(detector.classes)
    unread: list[str] = []
    bar = mmcv.ProgressBar(
        len(files) + sum(frame_count(video) for video in videos), file=sys.stderr
    )
    for batch in batches(readable(files, unread), args.batch):
        for (image, _), found in zip(batch, detector.batch([i for _, i in batch]), strict=True):
            content.add(str(image), found)
            if not args.no_pictures:
                found.draw(places.path(picture_name(image, files)))
            bar.update()
    for video in videos:
        clip = places.path(f"{video.stem}.mp4")
        with frame_writer(clip, video, not args.no_pictures) as write:
            for batch in batches(frames(video), args.batch):
                for (name, _), found in zip(
                    batch, detector.batch([i for _, i in batch]), strict=True
                ):
                    content.add(name, found)
                    write(found)
                    bar.update()
    file.write_text(json.dumps(content.content))
    images, objects = len(content.content["images"]), len(content.content["annotations"])
    print(f"\n{objects} objects in {images} images: {file}")
    if unread:
        raise UserError("left out:\n  " + "\n  ".join(unread))


def find_inputs(inputs: list[str]) -> tuple[list[Path], list[Path]]:
    """The images and videos of files and folders, in order.

    Raises:
        UserError: an input that is neither, or nothing at all.
    """
    files: list[Path] = []
    for name in inputs:
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


def readable(files: list[Path], unread: list[str]) -> Iterator[tuple[Path, np.ndarray]]:
    """Each file with its image; those that are none are noted."""
    for file in files:
        try:
            yield file, read_image(file)
        except UserError as error:
            unread.append(str(error))


def batches(items: Iterator, size: int) -> Iterator[list]:
    """Lists of ``size`` items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def picture_name(file: Path, files: list[Path]) -> str:
    """What an image's picture is called: its name, after its folder where names repeat."""
    same = [other for other in files if other.stem == file.stem]
    if len(same) == 1:
        return f"{file.stem}.jpg"
    return f"{file.resolve().parent.name}_{file.name}.jpg"


def frame_count(video: Path) -> int:
    """Number of frames as the file says.

    Raises:
        UserError: it is no video that OpenCV reads.
    """
    reader = cv2.VideoCapture(str(video))
    try:
        if not reader.isOpened():
            raise UserError(f"{video} is no video that OpenCV can read")
        return max(int(reader.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
    finally:
        reader.release()


def frames(video: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Each frame with its name."""
    reader = cv2.VideoCapture(str(video))
    number = 0
    while True:
        there, frame = reader.read()
        if not there:
            break
        yield f"{video.name}#{number}", frame
        number += 1
    reader.release()


@contextmanager
def frame_writer(file: Path, video: Path, wanted: bool):
    """A function that appends a picture of detections to a video of the same speed."""
    reader = cv2.VideoCapture(str(video))
    speed = reader.get(cv2.CAP_PROP_FPS) or 25.0
    reader.release()
    writer = None

    def write(found: Detections) -> None:
        nonlocal writer
        if not wanted:
            return
        if writer is None:
            height, width = found.image.shape[:2]
            code = cv2.VideoWriter_fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(file), code, speed, (width, height))
            if not writer.isOpened():
                raise UserError(f"this OpenCV cannot write {file}: use --no-pictures")
        writer.write(np.ascontiguousarray(found.draw()))

    try:
        yield write
    finally:
        if writer is not None:
            writer.release()


class CocoFile:
    """Images, categories and objects in COCO's form.

    Args:
        classes: names; their categories are numbered from 1.
    """

    def __init__(self, classes: tuple[str, ...]):
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
        self.content: dict = {"images": [], "categories": categories, "annotations": []}

    def add(self, name: str, found: Detections) -> None:
        """Append an image and its objects."""
        height, width = found.image.shape[:2]
        images, objects = self.content["images"], self.content["annotations"]
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        for i, (left, top, right, bottom) in enumerate(found.boxes.tolist()):
            thing = {
                "id": len(objects) + 1,
                "image_id": len(images),
                "category_id": int(found.labels[i]) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "score": float(found.scores[i]),
            }
            if found.masks is not None:
                thing["segmentation"] = run_lengths(found.masks[i])
                thing["area"] = int(found.masks[i].sum())
            objects.append(thing)
