"""The objects that a detector found in an image, and their file in COCO's format."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models_mm.evaluation.masks import run_lengths
from models_mm.evaluation.results import confident_objects
from models_mm.visualization.pictures import draw, write_picture


@dataclass
class Detections:
    """The objects in an image, sorted by score, the highest first.

    Attributes:
        image: the image, BGR (H, W, 3).
        boxes: (n, 4): left, top, right, bottom in pixels.
        scores: (n,), from 0 to 1.
        labels: (n,), positions in ``classes``.
        masks: (n, H, W) of bool; ``None`` if the detector has no masks.
        classes: the names of all classes of the detector.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    classes: tuple[str, ...]

    @classmethod
    def of_result(
        cls, image: np.ndarray, result, score_thr: float, classes: tuple[str, ...]
    ) -> "Detections":
        """The objects of a result (:mod:`models_mm.evaluation.results`).

        Args:
            image: BGR (H, W, 3).
            result: of the image: boxes, or boxes and masks.
            score_thr: the lowest score.
            classes: as of the attribute.
        """
        boxes, labels, masks = confident_objects(result, score_thr)
        order = np.argsort(-boxes[:, 4], kind="stable")
        if masks is not None:
            masks = masks[order]
        elif isinstance(result, tuple):
            masks = np.zeros((0, *image.shape[:2]), bool)
        boxes = boxes[order]
        return cls(image, boxes[:, :4], boxes[:, 4], labels[order], masks, classes)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.classes[label] for label in self.labels]

    def draw(self, file: str | Path | None = None) -> np.ndarray:
        """Draw the objects into the image; also write it if a file is given.

        Returns:
            The picture, BGR (H, W, 3).

        Raises:
            UserError: OpenCV cannot write the format of the file.
        """
        boxes = np.column_stack([self.boxes, self.scores]).astype(np.float32)
        picture = draw(self.image, boxes, self.labels, self.masks, self.classes)
        if file is not None:
            write_picture(picture, file)
        return picture


class CocoPredictions:
    """Predictions as the content of a file in COCO's format.

    Args:
        classes: the names of the categories, which get the ids from 1 on.

    Attributes:
        content: the lists ``images``, ``categories`` and ``annotations``.
    """

    def __init__(self, classes: tuple[str, ...]):
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
        self.content: dict = {"images": [], "categories": categories, "annotations": []}

    def add(self, name: str, found: Detections) -> None:
        """Append an image and its objects.

        Args:
            name: the ``file_name`` of the image.
            found: its objects.
        """
        height, width = found.image.shape[:2]
        images, objects = self.content["images"], self.content["annotations"]
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        for i, (left, top, right, bottom) in enumerate(found.boxes.tolist()):
            entry = {
                "id": len(objects) + 1,
                "image_id": len(images),
                "category_id": int(found.labels[i]) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "score": float(found.scores[i]),
            }
            if found.masks is not None:
                entry["segmentation"] = run_lengths(found.masks[i])
                entry["area"] = int(found.masks[i].sum())
            objects.append(entry)
