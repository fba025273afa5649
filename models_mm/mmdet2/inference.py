"""A trained detector for images, in three lines::

import models_mm

detector = models_mm.Detector("configs/.../mask_rcnn_....py", "checkpoint.pth")
found = detector("image.jpg")  # found.boxes, .scores, .names, .masks, .draw("picture.png")
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.datasets import replace_ImageToTensor
from mmdet.utils import compat_cfg

from models_mm.checkpoints.files import is_url, missing_file_message
from models_mm.data.images import read_image
from models_mm.data.inputs import batches
from models_mm.errors import UserError
from models_mm.evaluation.masks import PlacedMasks
from models_mm.evaluation.tiles import Tile, cut_boxes, merge, tiles_of
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.execution import settle_precision
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.testing import load_model
from models_mm.visualization.detections import Detections

OVERLAP = 0.2  # of tiles, as a share of their side
LARGEST = 2**26  # pixels of an image whose masks, each as large as the image, fit into memory


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
        for image in pixels:
            self.check_size(image)
        try:
            results = inference_detector(self.model, pixels)
        except cv2.error as error:
            sizes = ", ".join(f"{image.shape[1]}x{image.shape[0]}" for image in pixels)
            raise UserError(
                f"the detector's data pipeline cannot resize {sizes} pixels ({error.err})"
            ) from error
        return [
            Detections.of_result(image, result, self.score_thr, self.classes)
            for image, result in zip(pixels, results, strict=True)
        ]

    def check_size(self, image: np.ndarray) -> None:
        """Refuse an image (H, W, 3) whose masks would not fit into memory.

        Raises:
            UserError: it has more than 67 million pixels, and the detector has masks.
        """
        height, width = image.shape[:2]
        if height * width > LARGEST and getattr(self.model, "with_mask", False):
            raise UserError(
                f"{width}x{height} pixels: the masks of an image of more than {LARGEST / 1e6:.0f} "
                "million pixels do not fit into memory; with --tile they do"
            )

    def tiled(
        self,
        image: str | Path | np.ndarray,
        tile: int = 640,
        overlap: float = OVERLAP,
        batch: int = 1,
    ) -> Detections:
        """Detect small objects in a large image, tile by tile.

        Each tile is an image to the detector. So is the whole image, shrunk to the size of a tile,
        for the objects that are larger than a tile. :func:`models_mm.evaluation.tiles.merge` takes
        duplicates away.

        Args:
            image: a file, or BGR pixels (H, W, 3) of uint8.
            tile: height and width of the tiles in pixels.
            overlap: of neighbouring tiles, as a share of ``tile``: the size of the objects that are
                whole in one of them.
            batch: how many tiles the detector gets at a time.

        Raises:
            UserError: the file cannot be read, or there would be more than 10 000 tiles.
        """
        if not isinstance(image, np.ndarray):
            image = read_image(image, mmcv.imfrombytes)
        height, width = image.shape[:2]
        tiles = tiles_of(height, width, tile, overlap)
        if len(tiles) == 1:
            return self.batch([image])[0]
        small = shrunk(image, tile)
        scale = np.array([width / small.shape[1], height / small.shape[0]])
        (whole,) = self.batch([small])
        parts, cuts = [placed(whole, image, np.zeros(2), scale)], [np.zeros(len(whole), bool)]
        for one, found in self.of_tiles(image, tiles, batch):
            parts.append(placed(found, image, np.array(one[:2]), np.ones(2)))
            cuts.append(cut_boxes(found.boxes, one, height, width))
        found = joined(parts)
        sources = np.repeat(np.arange(len(parts)), list(map(len, parts)))
        return found[merge(found.boxes, found.scores, found.labels, sources, np.concatenate(cuts))]

    def of_tiles(
        self, image: np.ndarray, tiles: list[Tile], batch: int = 1
    ) -> Iterator[tuple[Tile, Detections]]:
        """Each tile of an image (H, W, 3) with its detections, in pixels of the tile."""
        for some in batches(tiles, batch):
            crops = [np.ascontiguousarray(image[one.region]) for one in some]
            yield from zip(some, self.batch(crops), strict=True)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, 3) whose longer side has become ``side`` pixels long."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def placed(
    found: Detections, image: np.ndarray, corner: np.ndarray, scale: np.ndarray
) -> Detections:
    """The detections of a part of an image, or of a smaller copy, in pixels of the image.

    Args:
        found: in pixels of the part.
        image: the whole image (H, W, 3).
        corner: (2,): left and top of the part in the image.
        scale: (2,): how many times wider and higher the image is than the copy.
    """
    boxes = found.boxes * np.tile(scale, 2) + np.tile(corner, 2)
    masks = None
    if found.masks is not None:
        masks = PlacedMasks.cropped(found.masks).placed(corner, scale, image.shape[:2])
    return Detections(image, boxes, found.scores, found.labels, masks, found.classes)


def joined(parts: list[Detections]) -> Detections:
    """The detections of several parts of one image, in its pixels, as one."""
    masks = None if parts[0].masks is None else PlacedMasks.joined([one.masks for one in parts])
    arrays = (
        np.concatenate([getattr(one, name) for one in parts])
        for name in ("boxes", "scores", "labels")
    )
    return Detections(parts[0].image, *arrays, masks, parts[0].classes)


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
