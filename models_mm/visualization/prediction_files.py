"""Files of predictions: pictures, JSON per image, COCO, CSV, and labels in YOLO's format.

Each class here writes one format: ``add`` appends the objects of an image or frame, ``close`` ends
the files. Nothing grows in memory with the number of images.
"""

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from models_mm.errors import UserError, did_you_mean
from models_mm.outputs import Outputs
from models_mm.visualization.detections import Detections
from models_mm.visualization.videos import video_writer

IN_MEMORY = 2**24  # bytes; longer lists go to a temporary file


class Source(NamedTuple):
    """Where the pixels come from.

    Attributes:
        name: of the file; of a frame, ``clip.mp4#3``.
        base: of the output files, without suffix; of a frame, that of its video.
        frame: the number of the frame from 0; ``None`` of an image.
        video: the file of a frame.
    """

    name: str
    base: str
    frame: int | None = None
    video: Path | None = None


class Ids(NamedTuple):
    """The ids of images and categories in an annotation file.

    Attributes:
        images: by file name.
        categories: by label.
    """

    images: dict[str, int]
    categories: list[int]

    @classmethod
    def of(cls, content: dict, classes: tuple[str, ...], file: str) -> "Ids":
        """The ids in the content of an annotation file.

        Args:
            content: of the file, checked by :func:`models_mm.data.annotations.load`.
            classes: of the detector.
            file: its name in messages.

        Raises:
            UserError: the file lacks one of the classes.
        """
        by_name = {entry["name"]: entry["id"] for entry in content["categories"]}
        for name in classes:
            if name not in by_name:
                raise UserError(f"{file} has no category {name!r}{did_you_mean(name, by_name)}")
        images = {entry["file_name"]: entry["id"] for entry in content["images"]}
        return cls(images, [by_name[name] for name in classes])

    def image(self, name: str) -> int:
        """The id of an image, whose path ends with its ``file_name``.

        Raises:
            UserError: the file has no such image.
        """
        parts = Path(name).parts
        for start in range(len(parts)):  # the longest name first
            found = self.images.get("/".join(parts[start:]))
            if found is not None:
                return found
        raise UserError(f"the annotation file has no image {name}")


class PictureFiles:
    """``NAME.jpg`` per image; ``NAME.mp4`` per video."""

    def __init__(self, places: Outputs):
        self.places = places
        self.clip = ExitStack()  # of the video that is being written

    def add(self, source: Source, found: Detections) -> None:
        """Draw the objects into an image, or into the next frame of a video."""
        if source.video is None:
            found.draw(self.places.path(f"{source.base}.jpg"))
            return
        if source.frame == 0:
            self.close()
            place = self.places.path(f"{source.base}.mp4")
            self.write = self.clip.enter_context(video_writer(place, source.video))
        self.write(found.draw())

    def close(self) -> None:
        """Close the file of a video."""
        self.clip.close()


def json_objects(found: Detections) -> Iterator[dict]:
    """The objects of an image as JSON holds them: boxes are left, top, right, bottom in pixels."""
    columns = (found.names, found.scores.tolist(), found.boxes.tolist(), found.mask_lengths())
    for name, score, box, mask in zip(*columns, strict=True):
        entry = {"class": name, "score": score, "box": box}
        yield entry if mask is None else entry | {"mask": mask}


class JsonFiles:
    """``NAME.json`` per image; ``NAME.jsonl`` per video, with one line per frame."""

    def __init__(self, places: Outputs):
        self.places = places
        self.lines: io.TextIOBase | None = None  # the video that is being written

    def add(self, source: Source, found: Detections) -> None:
        """Write the objects of an image, or the line of a frame."""
        height, width = found.image.shape[:2]
        content: dict = {"file": source.name, "width": width, "height": height}
        if source.frame is not None:
            content["frame"] = source.frame
        text = json.dumps(content | {"objects": list(json_objects(found))})
        if source.frame is None:
            self.places.path(f"{source.base}.json").write_text(text, encoding="utf-8")
            return
        if self.lines is None or source.frame == 0:
            self.close()
            self.lines = open(self.places.path(f"{source.base}.jsonl"), "w", encoding="utf-8")
        self.lines.write(f"{text}\n")
        self.lines.flush()

    def close(self) -> None:
        """Close the file of a video."""
        if self.lines is not None:
            self.lines.close()
        self.lines = None


class CsvFile:
    """``predictions.csv``: a line per object, of all images."""

    COLUMNS = ("file", "frame", "class", "score", "left", "top", "right", "bottom", "mask_pixels")

    def __init__(self, places: Outputs):
        self.path = places.path("predictions.csv")
        self.file = open(self.path, "w", encoding="utf-8", errors="backslashreplace", newline="")
        self.rows = csv.writer(self.file)
        self.rows.writerow(self.COLUMNS)

    def add(self, source: Source, found: Detections) -> None:
        """Append the objects of an image."""
        frame = "" if source.frame is None else source.frame
        columns = (found.names, found.scores, found.boxes, found.mask_areas())
        for name, score, box, area in zip(*columns, strict=True):
            numbers = (f"{score:.4f}", *(f"{side:.2f}" for side in box), area)
            self.rows.writerow([source.name, frame, name, *numbers])
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class JsonList:
    """A list in JSON that is written item by item."""

    def __init__(self):
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY, "w+", encoding="utf-8")
        self.length = 0

    def append(self, item: dict) -> None:
        """Add an item."""
        self.file.write((",\n" if self.length else "") + json.dumps(item))
        self.length += 1

    def copy_to(self, file: io.TextIOBase) -> None:
        """Write the whole list to another file."""
        self.file.seek(0)
        file.write("[")
        shutil.copyfileobj(self.file, file)
        file.write("]")


class CocoFiles:
    """``predictions.json``, a data set in COCO's format with the scores; ``results.json``.

    ``results.json`` is the list of detections that COCO's evaluation reads
    (``pycocotools.coco.COCO.loadRes``).

    Args:
        places: of the files.
        classes: the names of the categories, which get the ids from 1 on.
        results: whether ``results.json`` is written too.
        ids: of the images and categories in ``results.json``; by default those of
            ``predictions.json``.
    """

    def __init__(
        self, places: Outputs, classes: tuple[str, ...], results: bool, ids: Ids | None = None
    ):
        self.path, self.ids = places.path("predictions.json"), ids
        self.results = (places.path("results.json"), JsonList()) if results else None
        self.categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
        self.images, self.annotations = JsonList(), JsonList()

    def add(self, source: Source, found: Detections) -> None:
        """Append an image and its objects."""
        height, width = found.image.shape[:2]
        number = self.images.length + 1
        size = {"width": width, "height": height}
        self.images.append({"id": number, "file_name": source.name, **size})
        image = number if self.ids is None else self.ids.image(source.name)
        for (left, top, right, bottom), label, score, mask, area in zip(
            found.boxes.tolist(),
            found.labels.tolist(),
            found.scores.tolist(),
            found.mask_lengths(),
            found.mask_areas(),
            strict=True,
        ):
            result = {
                "image_id": image,
                "category_id": label + 1 if self.ids is None else self.ids.categories[label],
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
            }
            if mask is not None:
                result["segmentation"] = mask
            if self.results is not None:
                self.results[1].append(result)
            self.annotations.append(
                {"id": self.annotations.length + 1}
                | result
                | {"image_id": number, "category_id": label + 1, "iscrowd": 0}
                | {"area": (right - left) * (bottom - top) if area is None else area}
            )

    def close(self) -> None:
        """Write the files from what has been added."""
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(f'{{"categories": {json.dumps(self.categories)},\n"images": ')
            self.images.copy_to(file)
            file.write(',\n"annotations": ')
            self.annotations.copy_to(file)
            file.write("}\n")
        if self.results is not None:
            with open(self.results[0], "w", encoding="utf-8") as file:
                self.results[1].copy_to(file)


def yolo_files(places: Outputs, classes: tuple[str, ...]):
    """The writer of YOLO's labels, whose packages exported detectors do not need.

    Raises:
        UserError: one of the packages is not installed.
    """
    try:
        from models_mm.visualization.yolo_files import YoloFiles
    except ModuleNotFoundError as error:
        raise UserError(f"--format yolo needs {error.name}, which is not installed") from error
    return YoloFiles(places, classes)


def writers(formats: list[str], places: Outputs, classes: tuple[str, ...], ids: Ids | None) -> list:
    """The writers of some formats: ``pictures``, ``json``, ``coco``, ``csv``, ``yolo``;
    ``predictions`` is only the first of COCO's two files."""
    make: dict[str, Callable] = {
        "pictures": lambda: PictureFiles(places),
        "json": lambda: JsonFiles(places),
        "csv": lambda: CsvFile(places),
        "yolo": lambda: yolo_files(places, classes),
        "coco": lambda: CocoFiles(places, classes, True, ids),
        "predictions": lambda: CocoFiles(places, classes, False),
    }
    return [make[name]() for name in formats]
