"""An exported detector for images: what ``models_mm.Detector`` is for an ONNX file."""

from pathlib import Path

import numpy as np

from models_mm.data.images import decode_upright, read_image
from models_mm.deployment.exported import ExportedModel
from models_mm.errors import UserError
from models_mm.visualization.detections import Detections


class ExportedDetector:
    """An exported detector that takes images; several threads may use it at the same time.

    Args:
        file: the ONNX file.
        score_thr: the lowest score of an object.
        providers: as of :class:`ExportedModel`.
        threads: of the CPU (default: all cores).

    Attributes:
        model: the :class:`ExportedModel`.
        classes: the names of its classes.

    Raises:
        UserError: as :class:`ExportedModel`.
    """

    decoder = staticmethod(decode_upright)

    def __init__(
        self,
        file: str | Path,
        score_thr: float = 0.3,
        providers: list[str] | None = None,
        threads: int | None = None,
    ):
        self.model = ExportedModel(file, providers, threads)
        self.classes = self.model.description.classes
        self.score_thr = score_thr

    def __call__(self, image: str | Path | np.ndarray) -> Detections:
        """Detect the objects of an image.

        Args:
            image: a file, or BGR pixels (H, W, 3) of uint8.

        Raises:
            UserError: the file cannot be read, or the pixels have another form.
        """
        return self.batch([image])[0]

    def batch(self, images: list[str | Path | np.ndarray]) -> list[Detections]:
        """Detect the objects of several images, which are padded to a common size.

        Args:
            images: files, or BGR pixels (H, W, 3) of uint8.

        Raises:
            UserError: a file cannot be read, or pixels have another form.
        """
        if not images:
            return []
        photos = [pixels_of(image) for image in images]
        results = self.model.results(photos, self.score_thr)
        return [
            Detections.of_result(photo, result, self.score_thr, self.classes)
            for photo, result in zip(photos, results, strict=True)
        ]


def pixels_of(image: str | Path | np.ndarray) -> np.ndarray:
    """The pixels of an image, BGR (H, W, 3) of uint8.

    Raises:
        UserError: the file cannot be read, or the pixels have another form.
    """
    if not isinstance(image, np.ndarray):
        return read_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"an image must be BGR pixels (H, W, 3) of uint8, not {image.shape} of {image.dtype}"
        )
    return image
