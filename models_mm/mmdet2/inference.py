"""A trained detector in PyTorch, ready for images."""

import warnings
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.datasets import replace_ImageToTensor
from mmdet.utils import compat_cfg

from models_mm.checkpoints.files import is_url, missing_file_message
from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.execution import settle_precision
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.testing import load_model


class Detector:
    """A config and its weights.

    Args:
        config: the config file.
        checkpoint: the weights.
        device: such as ``"cuda:1"`` or ``"cpu"`` (default: a GPU if there is one).
        overrides: settings of the config, as ``--cfg-options`` gives them.
        score_thr: the lowest score that is needed; the config's threshold may be lower.

    Attributes:
        model: mmdet's detector.
        classes: the names of its classes.
        device: where it runs.

    Raises:
        UserError: a file or the device does not exist, or the checkpoint is of another detector.
    """

    # mmcv's, which `mmcv.use_backend` chooses for the training too
    decoder = staticmethod(mmcv.imfrombytes)

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        device: str | None = None,
        overrides: dict | None = None,
        score_thr: float = 1.0,
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
        lower_thresholds(cfg.model.get("test_cfg") or cfg.get("test_cfg") or {}, score_thr)
        cfg.fp16 = cfg.get("fp16") if device.type == "cuda" else None
        self.model = load_model(cfg, checkpoint, fuse=True).to(device)
        with warnings.catch_warnings():  # mmdet warns of batches, which are wanted here
            warnings.simplefilter("ignore")
            cfg.data.test.pipeline = replace_ImageToTensor(cfg.data.test.pipeline)
        self.model.cfg = cfg
        if self.model.CLASSES is None:
            raise UserError(f"{checkpoint} does not name its classes (meta.CLASSES)")
        self.classes = tuple(self.model.CLASSES)
        self.device = str(device)

    def results(self, photos: list[np.ndarray], score_thr: float = 0.0) -> list:
        """The objects in photos, in the form of :mod:`models_mm.evaluation.results`.

        Args:
            photos: BGR (H, W, 3) of uint8, which are padded to a common size.
            score_thr: objects of lower scores may be left out.

        Raises:
            UserError: the config's pipeline cannot resize a photo.
        """
        try:
            return inference_detector(self.model, photos)
        except cv2.error as error:
            sizes = ", ".join(f"{photo.shape[1]}x{photo.shape[0]}" for photo in photos)
            raise UserError(
                f"the detector's data pipeline cannot resize {sizes} pixels ({error.err})"
            ) from error


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


def lower_thresholds(test_cfg: dict, score_thr: float) -> None:
    """Let a detector give objects of a score that its config leaves out."""
    for part in (test_cfg, test_cfg.get("rcnn") or {}):
        if part.get("score_thr", 0) > score_thr:
            part["score_thr"] = score_thr
