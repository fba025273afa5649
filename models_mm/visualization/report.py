"""The report of a training: one HTML page, with pictures and curves inside it.

``report.html`` beside this file is the template. Everything that it gets is escaped, except for the
drawings of :mod:`models_mm.visualization.curves`; the page forbids scripts and other files.
"""

import base64
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

QUALITY = 82  # of the JPEGs, 1 to 100
MOST_CLASSES = 30  # in the confusion matrix


@dataclass
class Picture:
    """A picture with the lines below it."""

    source: str
    title: str
    text: str = ""


@dataclass
class Table:
    """A table; the first column has names, the others numbers or texts."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass
class Confusion:
    """A confusion matrix.

    Attributes:
        names: of the rows and columns.
        rows: pairs of the count and the share of the row, 0 to 1, of each cell.
        note: about classes that are left out.
    """

    names: list[str]
    rows: list[list[tuple[int, float]]]
    note: str = ""


@dataclass
class Report:
    """What the page shows; sections without content are left out.

    Attributes:
        title: of the page.
        subtitle: what was trained, in a line.
        figures: pairs of a name and a number for the top of the page.
        notes: what is missing from the report, and why.
        curves: SVG elements.
        tables: of the accuracy.
        confusion: of the classes.
        score: the lowest score of a detection in the confusion matrix and the worst images.
        worst: the images with most errors, truth beside prediction.
        samples: of the training data.
        costs: pairs of a name and a number.
        events: resumes, bad images and the like, with their times.
        environment: pairs of a name and a value.
        config: the text of the config.
    """

    title: str
    subtitle: str
    figures: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    confusion: Confusion | None = None
    score: float = 0.3
    worst: list[Picture] = field(default_factory=list)
    samples: list[Picture] = field(default_factory=list)
    costs: list[tuple[str, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    environment: list[tuple[str, str]] = field(default_factory=list)
    config: str = ""

    def html(self) -> str:
        """The page."""
        templates = FileSystemLoader(Path(__file__).parent)
        environment = Environment(
            loader=templates,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("report.html").render(report=self)


def embedded(picture: np.ndarray, title: str, text: str = "", width: int = 1400) -> Picture:
    """A BGR picture (H, W, 3) for the page, at most ``width`` pixels wide and high."""
    scale = min(1, width / max(picture.shape[:2]))
    if scale < 1:
        size = [max(round(side * scale), 1) for side in picture.shape[1::-1]]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    data = base64.b64encode(jpeg.tobytes()).decode()
    return Picture(f"data:image/jpeg;base64,{data}", title, text)


def confusion_of(counts: np.ndarray, names: tuple[str, ...]) -> Confusion:
    """The confusion matrix of a page, of the classes that are confused most if there are many.

    Args:
        counts: (n + 1, n + 1): objects of each true class (rows) by predicted class; the last row
            and column are the background.
        names: of the n classes.
    """
    wrong = counts - np.diag(np.diag(counts))
    errors = (wrong.sum(axis=0) + wrong.sum(axis=1))[:-1]
    shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    note = ""
    if len(shown) < len(names):
        note = f"The {len(shown)} of {len(names)} classes with most errors."
    places = [*shown.tolist(), len(names)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [[(int(counts[i, j]), float(shares[i, j])) for j in places] for i in places]
    return Confusion([*(names[i] for i in shown), "background"], rows, note)
