"""A detector for one's own images, in three lines::

import models_mm

detector = models_mm.Detector("configs/.../mask_rcnn_....py", "checkpoint.pth")
found = detector("image.jpg")  # found.boxes, .scores, .names, .masks, .draw("picture.png")
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.datasets import replace_ImageToTensor
from mmdet.utils import compat_cfg

from models_mm.checkpoints.files import is_url, missing_file_message
from models_mm.data import images
from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.execution import settle_precision
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.testing import load_model
from models_mm.visualization.pictures import draw, predicted_objects


@dataclass
class Detections:
    """What was found in an image, the most certain first.

    Attributes:
        image: the image, BGR (H, W, 3).
        boxes: (n, 4): left, top, right, bottom in pixels.
        scores: (n,), from 0 to 1.
        labels: (n,), places in ``classes``.
        masks: (n, H, W), or ``None`` of detectors without masks.
        classes: all names that the detector knows.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels]

    def draw(self, file: str | Path | None = None) -> np.ndarray:
        """The image with the objects, BGR (H, W, 3); also written to a file."""
        boxes = np.column_stack([self.boxes, self.scores]).astype(np.float32)
        picture = draw(self.image, boxes, self.labels, self.masks, self.classes)
        if file is not None:
            mmcv.imwrite(np.ascontiguousarray(picture), str(file))
        return picture


class Detector:
    """A trained detector that takes images.

    Args:
        config: its config file.
        checkpoint: its weights.
        device: such as ``"cuda:1"`` or ``"cpu"`` (default: a GPU if there is one).
        score_thr: lowest score of an object.
        overrides: settings of the config, as ``--cfg-options`` gives them.

    Raises:
        UserError: no such file or device, or the checkpoint is of another detector.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        device: str | None = None,
        score_thr: float = 0.3,
        overrides: dict | None = None,
    ):
        config, checkpoint = str(config), str(checkpoint)
        if not is_url(checkpoint) and not Path(checkpoint).expanduser().is_file():
            raise UserError(missing_file_message(checkpoint))
        cfg = load_config(config, overrides)
        check_settings(cfg, ("test",))
        cfg = compat_cfg(cfg)
        device = usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        cfg.device = device.type
        settle_precision(cfg)
        cfg.fp16 = cfg.get("fp16") if device.type == "cuda" else None
        self.model = load_model(cfg, checkpoint, fuse=True).to(device)
        with warnings.catch_warnings():  # several images at a time are what is wanted
            warnings.simplefilter("ignore")
            cfg.data.test.pipeline = replace_ImageToTensor(cfg.data.test.pipeline)
        self.model.cfg = cfg
        if self.model.CLASSES is None:
            raise UserError(f"{checkpoint} does not name its classes (meta.CLASSES)")
        self.classes = tuple(self.model.CLASSES)
        self.score_thr = score_thr

    def __call__(self, image: str | Path | np.ndarray) -> Detections:
        """The objects of an image, a file or BGR (H, W, 3).

        Raises:
            UserError: the file cannot be read.
        """
        return self.batch([image])[0]

    def batch(self, images: list[str | Path | np.ndarray]) -> list[Detections]:
        """The objects of several images, which are padded to a common size.

        Raises:
            UserError: a file cannot be read.
        """
        pixels = [read_image(image) for image in images]
        results = inference_detector(self.model, pixels)
        return [
            self._detections(image, result) for image, result in zip(pixels, results, strict=True)
        ]

    def _detections(self, image: np.ndarray, result) -> Detections:
        boxes, labels, masks = predicted_objects(result, self.score_thr)
        order = np.argsort(-boxes[:, 4], kind="stable")
        if masks is not None:
            masks = masks[order]
        elif isinstance(result, tuple):
            masks = np.zeros((0, *image.shape[:2]), bool)
        boxes = boxes[order]
        return Detections(image, boxes[:, :4], boxes[:, 4], labels[order], masks, self.classes)


def usable(name: str) -> torch.device:
    """The device of a name.

    Raises:
        UserError: there is none of that name here.
    """
    if name.startswith("meta"):
        raise UserError(f"device {name} computes nothing (`cpu` works everywhere)")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter: PyTorch built without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name}: {reason} (`cpu` works everywhere)") from error


def read_image(image: str | Path | np.ndarray) -> np.ndarray:
    """An image, BGR (H, W, 3).

    Raises:
        UserError: no such file, or it is no image.
    """
    return image if isinstance(image, np.ndarray) else images.read_image(image)
