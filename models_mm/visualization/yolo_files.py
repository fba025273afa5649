"""Predictions as labels in YOLO's format."""

from collections import Counter

import numpy as np

from models_mm.data.conversion import yolo_lines
from models_mm.data.demo import outlines
from models_mm.data.formats.labels import LabelledImage
from models_mm.evaluation.masks import PlacedMasks, regions
from models_mm.outputs import Outputs
from models_mm.visualization.detections import Detections
from models_mm.visualization.prediction_files import Source


class YoloFiles:
    """``labels/NAME.txt`` per image, ``labels/NAME/000000.txt`` per frame, ``labels/classes.txt``.

    The lines are those of YOLO's labels: a polygon of an object with a mask, or else a box. There
    is no score, so that the files can be corrected and used as labels.
    """

    def __init__(self, places: Outputs, classes: tuple[str, ...]):
        self.places = places
        text = "".join(" ".join(name.split()) + "\n" for name in classes)
        places.path("labels/classes.txt").write_text(text, encoding="utf-8")

    def add(self, source: Source, found: Detections) -> None:
        """Write the labels of an image."""
        height, width = found.image.shape[:2]
        masks: list = [None] * len(found)
        if found.masks is not None:
            placed = regions(PlacedMasks.cropped(found.masks))  # outlines need much memory
            masks = [polygons(region, pixels) for region, pixels in placed]
        things = []
        for name, (left, top, right, bottom), mask in zip(
            found.names, found.boxes.tolist(), masks, strict=True
        ):
            bbox = [left, top, right - left, bottom - top]
            if min(bbox[2:]) > 0:
                things.append({"class": name, "iscrowd": 0, "bbox": bbox, "segmentation": mask})
        image = LabelledImage(source.name, width, height, things)
        lines = yolo_lines(image, found.classes, Counter())
        part = "" if source.frame is None else f"/{source.frame:06d}"
        place = self.places.path(f"labels/{source.base}{part}.txt")
        place.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def close(self) -> None:
        """There is nothing left to write."""


def polygons(region: tuple[slice, slice], pixels: np.ndarray) -> list[list[float]]:
    """The outlines in the image of a mask (h, w) of bool in a region of it."""
    corner = (region[1].start, region[0].start)
    return [
        [value + corner[i % 2] for i, value in enumerate(outline)] for outline in outlines(pixels)
    ]
