"""A trained detector for images, in three lines::

import models_mm

detector = models_mm.Detector("detector.onnx")  # or ("config.py", "checkpoint.pth")
found = detector("image.jpg")  # found.boxes, .scores, .names, .masks, .draw("picture.png")
"""

from pathlib import Path

import numpy as np

from models_mm import host_imports
from models_mm.data.images import Decoder
from models_mm.deployment.detector import ExportedDetector
from models_mm.errors import UserError
from models_mm.visualization.detections import Detections


class Detector:
    """A trained detector that takes images: a config and its weights, or one exported file.

    Args:
        config: the config file; or a file of `models_mm export`, which needs ONNX Runtime and
            neither PyTorch nor MMDetection.
        checkpoint: the weights; not of an exported file.
        device: such as ``"cuda:1"`` or ``"cpu"`` (default: a GPU if there is one); not of an
            exported file.
        score_thr: the lowest score of an object.
        overrides: settings of the config, as ``--cfg-options`` gives them; not of an exported file.
        providers: of an exported file: ``["tensorrt", "cuda", "cpu"]`` and the like
            (default: a GPU if there is one).

    Attributes:
        model: mmdet's detector, or what runs the exported file.
        classes: the names of its classes.

    Raises:
        UserError: a file or the device does not exist, or the checkpoint is of another detector.
        ImportError: a config needs MMDetection, which is not installed.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path | None = None,
        device: str | None = None,
        score_thr: float = 0.3,
        overrides: dict | None = None,
        providers: list[str] | None = None,
    ):
        if Path(config).suffix == ".onnx":
            given = dict(checkpoint=checkpoint, device=device, overrides=overrides)
            for name, value in given.items():
                if value is not None:
                    raise UserError(f"{config} is exported: leave {name} out")
            self._detector = ExportedDetector(config, score_thr, providers)
        else:
            if checkpoint is None:
                raise UserError(f"{config} needs a checkpoint: models_mm.Detector(config, weights)")
            if providers is not None:
                raise UserError(f"providers are those of an exported file, which {config} is not")
            with host_imports.needed_by("models_mm.Detector(config, checkpoint)"):
                from models_mm.mmdet2 import inference  # exported files do without it

            self._detector = inference.Detector(config, checkpoint, device, score_thr, overrides)
        self.model, self.classes = self._detector.model, self._detector.classes

    @property
    def decoder(self) -> Decoder:
        """What turns the bytes of an image file into pixels for this detector."""
        return self._detector.decoder

    @property
    def score_thr(self) -> float:
        """The lowest score of an object."""
        return self._detector.score_thr

    @score_thr.setter
    def score_thr(self, value: float) -> None:
        self._detector.score_thr = value

    def __call__(self, image: str | Path | np.ndarray) -> Detections:
        """Detect the objects of an image.

        Args:
            image: a file, or BGR pixels (H, W, 3) of uint8.

        Raises:
            UserError: the file cannot be read.
        """
        return self.batch([image])[0]

    def batch(self, images: list[str | Path | np.ndarray]) -> list[Detections]:
        """Detect the objects of several images, which are padded to a common size.

        Args:
            images: files, or BGR pixels (H, W, 3) of uint8.

        Raises:
            UserError: a file cannot be read.
        """
        return self._detector.batch(images)
