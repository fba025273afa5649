"""A trained detector for images, in three lines::

import models_mm

detector = models_mm.Detector("detector.onnx")  # or ("config.py", "checkpoint.pth")
found = detector("image.jpg")  # found.boxes, .scores, .names, .masks, .draw("picture.png")
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from models_mm import host_imports
from models_mm.data.images import Decoder, decode, read_image
from models_mm.data.inputs import batches
from models_mm.deployment.description import is_exported
from models_mm.deployment.exported import ExportedModel
from models_mm.errors import UserError
from models_mm.evaluation.masks import PlacedMasks
from models_mm.evaluation.tiles import Tile, cut_boxes, merge, tiles_of
from models_mm.messages import say
from models_mm.visualization.detections import Detections

OVERLAP = 0.2  # of tiles, as a share of their side
LARGEST = 2**26  # pixels of an image whose masks, each as large as the image, fit into memory
Image = str | Path | bytes | np.ndarray


class Detector:
    """A trained detector that takes images: a config and its weights, or one exported file.

    An image is the name of a file, the content of a file, or BGR pixels (H, W, 3) of uint8. Several
    threads may use an exported detector at the same time.

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
        threads: of the CPU for each image; of an exported file (default: all cores).

    Attributes:
        model: mmdet's detector, or the :class:`ExportedModel`.
        classes: the names of its classes.
        device: where it runs.

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
        threads: int | None = None,
    ):
        of_config = dict(checkpoint=checkpoint, device=device, overrides=overrides)
        of_file = dict(providers=providers, threads=threads)
        exported = is_exported(config)
        for name, value in (of_config if exported else of_file).items():
            if value is not None:
                what = "is exported" if exported else "is no exported file (.onnx)"
                raise UserError(f"{config} {what}: leave {name} out")
        if exported:
            self.runner = self.model = ExportedModel(config, **of_file)
            lowest = self.model.description.score_thr
            if score_thr < lowest:
                say(f"{config} leaves out objects that score less than {lowest:g} before NMS")
        else:
            if checkpoint is None:
                raise UserError(f"{config} needs a checkpoint: models_mm.Detector(config, weights)")
            with host_imports.needed_by("models_mm.Detector(config, checkpoint)"):
                from models_mm.mmdet2 import inference  # exported files do without it

            self.runner = inference.Detector(config, **of_config, score_thr=score_thr)
            self.model = self.runner.model
        self.classes, self.device = self.runner.classes, self.runner.device
        self.score_thr = score_thr

    @property
    def decoder(self) -> Decoder:
        """What turns the bytes of an image file into pixels for this detector."""
        return self.runner.decoder

    def __call__(self, image: Image) -> Detections:
        """Detect the objects of an image.

        Raises:
            UserError: the image cannot be read, or has a form or size that cannot be used.
        """
        return self.batch([image])[0]

    def batch(self, images: list[Image]) -> list[Detections]:
        """Detect the objects of several images, which are padded to a common size.

        Raises:
            UserError: an image cannot be read, or has a form or size that cannot be used.
        """
        pixels = [self.pixels(image) for image in images]
        for image in pixels:
            self.check_size(image)
        results = self.runner.results(pixels, self.score_thr) if pixels else []
        return [
            Detections.of_result(image, result, self.score_thr, self.classes)
            for image, result in zip(pixels, results, strict=True)
        ]

    def pixels(self, image: Image) -> np.ndarray:
        """The pixels of an image, BGR (H, W, 3) of uint8.

        Raises:
            UserError: it cannot be read, or an array has another form.
        """
        if isinstance(image, bytes):
            return decode(image, "(bytes)", self.decoder)
        if not isinstance(image, np.ndarray):
            return read_image(image, self.decoder)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                "an image must be BGR pixels (H, W, 3) of uint8, not "
                f"{image.shape} of {image.dtype}"
            )
        return image

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
        image: Image,
        tile: int = 640,
        overlap: float = OVERLAP,
        batch: int = 1,
    ) -> Detections:
        """Detect small objects in a large image, tile by tile.

        Each tile is an image to the detector. So is the whole image, shrunk to the size of a tile,
        for the objects that are larger than a tile. :func:`models_mm.evaluation.tiles.merge` takes
        duplicates away.

        Args:
            image: as of :meth:`__call__`.
            tile: height and width of the tiles in pixels.
            overlap: of neighbouring tiles, as a share of ``tile``: the size of the objects that are
                whole in one of them.
            batch: how many tiles the detector gets at a time.

        Raises:
            UserError: the image cannot be read, or there would be more than 10 000 tiles.
        """
        image = self.pixels(image)
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
