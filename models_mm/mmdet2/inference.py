"""A trained detector for images, in three lines::

import models_mm

detector = models_mm.Detector("configs/.../mask_rcnn_....py", "checkpoint.pth")
found = detector("image.jpg")  # found.boxes, .scores, .names, .masks, .draw("picture.png")
"""

import warnings
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.datasets import replace_ImageToTensor
from mmdet.utils import compat_cfg

from models_mm.checkpoints.files import is_url, missing_file_message
from models_mm.data.images import read_image
from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.execution import settle_precision
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.testing import load_model
from models_mm.visualization.detections import Detections


class Detector:
    """A trained detector that takes images.

    Args:
        config: the config file.
        checkpoint: the weights.
        device: such as ``"cuda:1"`` or ``"cpu"`` (default: a GPU if there is one).
        score_thr: the lowest score of an object.
        overrides: settings of the config, as ``--cfg-options`` gives them.

    Attributes:
        model: mmdet's detector.
        classes: the names of its classes.

    Raises:
        UserError: a file or the device does not exist, or the checkpoint is of another detector.
    """

    decoder = staticmethod(mmcv.imfrombytes)

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
        with warnings.catch_warnings():  # mmdet warns of batches, which are wanted here
            warnings.simplefilter("ignore")
            cfg.data.test.pipeline = replace_ImageToTensor(cfg.data.test.pipeline)
        self.model.cfg = cfg
        if self.model.CLASSES is None:
            raise UserError(f"{checkpoint} does not name its classes (meta.CLASSES)")
        self.classes = tuple(self.model.CLASSES)
        self.score_thr = score_thr

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
        # mmcv's decoder, which `mmcv.use_backend` chooses for the training too
        pixels = [
            image if isinstance(image, np.ndarray) else read_image(image, mmcv.imfrombytes)
            for image in images
        ]
        results = inference_detector(self.model, pixels)
        return [
            Detections.of_result(image, result, self.score_thr, self.classes)
            for image, result in zip(pixels, results, strict=True)
        ]


def usable(name: str) -> torch.device:
    """The device of a name.

    Raises:
        UserError: this machine has no such device.
    """
    if name.startswith("meta"):
        raise UserError(f"device {name} computes nothing (`cpu` works everywhere)")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter: PyTorch built without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name}: {reason} (`cpu` works everywhere)") from error
