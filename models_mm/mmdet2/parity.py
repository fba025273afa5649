"""Compare an exported detector with the one in PyTorch, photo by photo."""

import copy
import warnings
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from mmdet.apis import inference_detector

from models_mm.data.demo import draw_scene
from models_mm.data.images import read_image
from models_mm.data.inputs import find_inputs
from models_mm.deployment.description import Description
from models_mm.deployment.exported import ExportedModel
from models_mm.deployment.preprocessing import resized_size
from models_mm.mmdet2.inference import Detector
from models_mm.visualization.detections import Detections

DRAWN = ((375, 500, 6), (500, 333, 3), (96, 128, 1), (427, 640, 0))  # height, width, objects
WITHOUT = " (without oneDNN)"
OWN = " (less than PyTorch itself)"
ANOTHER = 2.0  # pixels; boxes that are farther apart are of different objects


class Tolerance(NamedTuple):
    """What still counts as equal."""

    box: float = 0.01  # pixels
    score: float = 1e-4
    mask: float = 1e-3  # of the pixels that either mask has
    unmatched: float = 0.0  # of the objects

    @classmethod
    def of(cls, precision: str) -> "Tolerance":
        """The tolerance for fp32; fp16 rounds to a thousandth, and some objects may be others."""
        return (
            cls() if precision == "fp32" else cls(box=ANOTHER, score=0.02, mask=0.05, unmatched=0.1)
        )


class Difference(NamedTuple):
    """How the objects of a photo differ.

    Attributes:
        photo: its name.
        objects: found by the detector in PyTorch.
        unmatched: objects of either that the other has not, with the same label and score, in
            the same place.
        box: largest difference of a coordinate in pixels.
        score: largest difference.
        mask: share of the mask pixels that differ.
    """

    photo: str
    objects: int
    unmatched: int
    box: float
    score: float
    mask: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether this counts as equal."""
        return (
            self.unmatched <= tolerance.unmatched * self.objects
            and self.box <= tolerance.box
            and self.score <= tolerance.score
            and self.mask <= tolerance.mask
        )


def photos_of(names: list[str]) -> list[tuple[str, np.ndarray]]:
    """The photos in these files and folders; four drawn ones if there are none.

    Raises:
        UserError: a photo cannot be read.
    """
    if names:
        files, videos = find_inputs(names)
        return [(str(file), read_image(file, mmcv.imfrombytes)) for file in files + videos]
    rng = np.random.default_rng(0)
    return [
        (f"drawn {height}x{width}", draw_scene(rng, height, width, objects, crowd=False)[0])
        for height, width, objects in DRAWN
    ]


def compare(
    detector: Detector, exported: ExportedModel, photos: list[tuple[str, np.ndarray]]
) -> list[Difference]:
    """Let both find the objects of a batch of photos, of any score that the config allows.

    PyTorch computes convolutions with oneDNN or without it. Where their roundings decide which of
    two boxes NMS keeps, the exported detector may find what either of them finds; the name of a
    photo says if it was the second. It also says if both of them differ by more than the file: then
    the detector amplifies roundings.
    """
    rule, (names, pixels) = exported.description, zip(*photos, strict=True)
    tolerance = Tolerance.of(rule.precision)

    def rows(*results: list) -> list[Difference]:
        return [
            differences(
                tolerance.score,
                *(Detections.of_result(photo, x, 0.0, rule.classes) for x in pair),
                name,
            )
            for name, photo, *pair in zip(names, pixels, *results, strict=True)
        ]

    results, ours = exported.results(pixels), expected(detector, pixels, rule)
    found = rows(ours, results)
    if all(row.within(tolerance) for row in found):
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TF32, which nobody asked for
        with torch.backends.mkldnn.flags(enabled=False):
            others = expected(detector, pixels, rule)
    return [
        named(*three, tolerance)
        for three in zip(found, rows(others, results), rows(ours, others), strict=True)
    ]


def named(row: Difference, other: Difference, own: Difference, tolerance: Tolerance) -> Difference:
    """The row of a photo, named after what PyTorch finds with oneDNN and without it.

    Args:
        row: how the exported detector differs from PyTorch with oneDNN.
        other: how it differs from PyTorch without oneDNN.
        own: how these two differ.
        tolerance: what counts as equal.
    """
    if row.within(tolerance):
        return row
    if other.within(tolerance):
        return other._replace(photo=row.photo + WITHOUT)
    more = (own.unmatched, *map(max, own[3:], tolerance[:3]))
    if all(a <= b for a, b in zip(row[2:], more, strict=True)):
        return row._replace(photo=row.photo + OWN)
    return row


def expected(detector: Detector, pixels: list[np.ndarray], rule: Description) -> list:
    """The results of mmdet's detector for a batch of photos."""
    if rule.shape is None:
        return inference_detector(detector.model, list(pixels))
    return [inference_detector(in_frame(detector, photo, rule), photo) for photo in pixels]


def in_frame(detector: Detector, photo: np.ndarray, rule: Description):
    """mmdet's detector; it pads a photo to the fixed frame of the exported one."""
    model = copy.copy(detector.model)  # the same weights, with another pipeline
    model.cfg = copy.deepcopy(detector.model.cfg)
    augmented = model.cfg.data.test.pipeline[1]
    augmented.img_scale = resized_size(*photo.shape[:2], rule)[::-1]
    padded = tuple(-(-side // rule.divisor) * rule.divisor for side in rule.shape)
    steps = [step for step in augmented.transforms if step["type"] != "Pad"]
    place = [step["type"] for step in steps].index("Normalize") + 1
    steps.insert(place, dict(type="Pad", size=padded))
    augmented.transforms = steps
    for step in augmented.transforms:
        if step["type"] == "Resize":
            step["keep_ratio"] = False
    return model


def differences(
    score_tolerance: float, expected: Detections, found: Detections, name: str
) -> Difference:
    """How two lists of objects of one photo differ.

    The order is that of the scores; objects with equal scores may change places.
    """
    free = list(range(len(found)))
    box = score = 0.0
    wrong = total = 0
    matched = 0
    for i in range(len(expected)):
        near = [
            j
            for j in free
            if found.labels[j] == expected.labels[i]
            and abs(found.scores[j] - expected.scores[i]) <= score_tolerance
        ]
        if not near:
            continue
        far = [float(np.abs(found.boxes[j] - expected.boxes[i]).max()) for j in near]
        if min(far) > ANOTHER:
            continue
        best = near[int(np.argmin(far))]
        free.remove(best)
        matched += 1
        box = max(box, min(far))
        score = max(score, float(abs(found.scores[best] - expected.scores[i])))
        if expected.masks is not None:
            wrong += int((expected.masks[i] ^ found.masks[best]).sum())
            total += int((expected.masks[i] | found.masks[best]).sum())
    unmatched = len(expected) + len(found) - 2 * matched
    return Difference(name, len(expected), unmatched, box, score, wrong / max(total, 1))


def table(rows: list[Difference]) -> str:
    """The differences as a table."""
    width = max(len(shown(row.photo)) for row in rows)
    lines = [f"{'':{width}}  objects  unmatched  boxes, px    scores  mask pixels"]
    for row in rows:
        lines.append(
            f"{shown(row.photo):{width}}  {row.objects:7}  {row.unmatched:9}  {row.box:9.1e}  "
            f"{row.score:8.1e}  {row.mask:11.3%}"
        )
    return "\n".join(lines)


def shown(photo: str) -> str:
    """The name of a photo in the table."""
    return Path(photo).name[-40 - len(OWN) :]
