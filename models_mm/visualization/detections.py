"""The objects that a detector found in an image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models_mm.evaluation.masks import PlacedMasks, regions, run_lengths
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
        masks: (n, H, W) of bool, an array, or :class:`models_mm.evaluation.masks.PlacedMasks` of
            an image in tiles; ``None`` if the detector has no masks.
        classes: the names of all classes of the detector.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | PlacedMasks | None
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

    def __getitem__(self, keep: np.ndarray) -> "Detections":
        """Some of the objects: an array of positions, or of bool for each object."""
        masks = self.masks if self.masks is None else self.masks[keep]
        arrays = (self.boxes[keep], self.scores[keep], self.labels[keep])
        return Detections(self.image, *arrays, masks, self.classes)

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.classes[label] for label in self.labels]

    def mask_lengths(self) -> list[dict | None]:
        """The mask of each object as COCO's run lengths; ``None`` without masks."""
        if self.masks is None:
            return [None] * len(self)
        if isinstance(self.masks, PlacedMasks):
            return [self.masks.run_lengths(i) for i in range(len(self))]
        return [run_lengths(mask) for mask in self.masks]

    def mask_areas(self) -> list[int | None]:
        """The number of pixels of the mask of each object; ``None`` without masks."""
        if self.masks is None:
            return [None] * len(self)
        return [int(np.count_nonzero(pixels)) for _, pixels in regions(self.masks)]

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
