"""What an exported file says of itself: classes, how images are prepared, where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models_mm.errors import UserError
from models_mm.values import FLAG, NONE, TEXT, Kind, choice, either, many, number, whole

KEY = "models_mm"  # of the file's metadata
FORMAT = 1  # version of the description and of the graph's inputs and outputs
SIDE = whole(1, 2**16)
PAIR = Kind(
    "a pair of sides in pixels",
    lambda value: many(SIDE).fits(value) and len(value) == 2,
)
INTERPOLATIONS = {  # of each library that resizes photos
    "cv2": ("nearest", "bilinear", "bicubic", "area", "lanczos"),
    "pillow": ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"),
}

KINDS = {
    "format": choice(FORMAT),
    "classes": many(TEXT),
    "scale": PAIR,
    "keep_ratio": FLAG,
    "backend": choice(*INTERPOLATIONS),
    "interpolation": TEXT,
    "divisor": whole(1, 1024),
    "shape": either(PAIR, NONE),
    "mean": many(number(), 3),
    "std": many(number(above=0), 3),
    "to_rgb": FLAG,
    "dtype": choice("uint8", "float32"),
    "max_det": whole(1, 10_000),
    "score_thr": number(0, 1),
    "mask_thr": either(number(0, 1), NONE),
    "precision": choice("fp32", "fp16"),
    "versions": Kind("texts by name", lambda value: isinstance(value, dict)),
    "checkpoint": TEXT,
    "config": TEXT,
}


@dataclass(frozen=True)
class Description:
    """The metadata of an exported detector.

    Attributes:
        classes: the names of its classes.
        scale: width and height that a photo is resized to. With ``keep_ratio`` the longer of both
            is the limit of the longer side, and the shorter of both that of the shorter side.
        keep_ratio: whether the aspect ratio stays.
        interpolation: how it is resized, of :data:`INTERPOLATIONS`.
        backend: the library that resizes it: cv2 or pillow.
        divisor: the graph pads images to multiples of it.
        shape: height and width of the graph's input; ``None`` if they are free.
        mean: of the normalisation inside of the graph.
        std: of the normalisation inside of the graph.
        to_rgb: whether ``mean`` and ``std`` are of RGB; else they are of BGR.
        dtype: of the graph's input: uint8, or float32 for photos that are resized as floats.
        max_det: rows of the outputs.
        score_thr: the config's lowest score of an object; soft NMS makes it lower afterwards.
        mask_thr: the lowest probability of a pixel of a mask; ``None`` without masks.
        precision: fp32 or fp16.
        versions: of the libraries that have made the file.
        checkpoint: SHA-256 of the weights' file.
        config: the text of the whole config.
        format: version of this description.
    """

    classes: tuple[str, ...]
    scale: tuple[int, int]
    keep_ratio: bool
    interpolation: str
    backend: str
    divisor: int
    shape: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    to_rgb: bool
    dtype: str
    max_det: int
    score_thr: float
    mask_thr: float | None
    precision: str
    versions: dict[str, str]
    checkpoint: str
    config: str
    format: int = FORMAT

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        masks = [] if self.mask_thr is None else ["masks"]
        return ["boxes", "scores", "labels", *masks, "count"]

    def text(self) -> str:
        """The description as JSON."""
        return json.dumps(asdict(self))


def is_exported(file: str | Path) -> bool:
    """Whether a file is an exported detector, by its name."""
    return Path(file).suffix.lower() == ".onnx"


def read_description(metadata: Mapping[str, str], file: str) -> Description:
    """Read the description in the metadata of a file.

    Raises:
        UserError: there is none, or it is not valid.
    """
    if KEY not in metadata:
        raise UserError(f"{file} was not written by `models_mm export`: it has no metadata of it")
    try:
        content: Any = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: its metadata {KEY!r} are no JSON") from error
    if not isinstance(content, dict) or set(content) != set(KINDS):
        raise UserError(
            f"{file}: its metadata {KEY!r} are those of another version of models_mm: export again"
        )
    for name, kind in KINDS.items():
        kind.check(f"{file}: metadata {name}", content[name])
    ways = choice(*INTERPOLATIONS[content["backend"]])
    ways.check(f"{file}: metadata interpolation", content["interpolation"])
    for name in ("classes", "scale", "shape", "mean", "std"):
        content[name] = tuple(content[name]) if content[name] is not None else None
    return Description(**content)
