"""COCO's metrics from plain truth and arrays, with hotcoco and without it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models_mm.evaluation.coco import ENGINES, evaluate_coco
from models_mm.evaluation.masks import encode_masks
from models_mm.evaluation.results import flatten

ROOT = Path(__file__).resolve().parents[2]
BOX, OTHER = [10.0, 10, 40, 40], [60.0, 60, 20, 20]  # x, y, width, height


def truth() -> dict:
    """Two images; cats and dogs at the same places of both."""
    objects = [(image, key) for image in (7, 3) for key in (20, 10)]
    annotations = [
        dict(id=n, image_id=image, category_id=key, iscrowd=0)
        | (dict(bbox=BOX, area=1600.0) if key == 10 else dict(bbox=OTHER, area=400.0))
        for n, (image, key) in enumerate(objects)
    ]
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "images": [dict(id=i, file_name=f"{i}.jpg", width=100, height=90) for i in (7, 3)],
        "categories": [dict(id=10, name="cat"), dict(id=20, name="dog")],
        "annotations": annotations,
    }


def found(box: list, score: float = 0.9) -> np.ndarray:
    x, y, w, h = box
    return np.array([[x, y, x + w, y + h, score]], np.float32)


def evaluate(results: list, engine: str, metric: str = "bbox", **options):
    """The metrics of results of dogs and cats, in this order, of the images 7 and 3."""
    flat = flatten(results, masks=metric == "segm")
    return evaluate_coco(truth(), flat, [7, 3], [20, 10], metric, engine=engine, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_perfect_detector(engine):
    metrics = evaluate([[found(OTHER), found(BOX)]] * 2, engine)
    # no large object; small and medium ones
    assert metrics.statistics.tolist() == [1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1, -1]
    assert metrics.class_precisions == {10: 1, 20: 1}
    assert "Average Precision" in metrics.table and len(metrics.table.splitlines()) == 12


@pytest.mark.parametrize("engine", ENGINES)
def test_a_class_that_is_missed_in_one_image(engine):
    none = np.zeros((0, 5), np.float32)
    metrics = evaluate([[found(OTHER), found(BOX)], [none, found(BOX)]], engine)
    half = 51 / 101  # precision 1 at the recalls 0, 0.01, ..., 0.5
    assert metrics.class_precisions == pytest.approx({10: 1, 20: half}, abs=1e-12)
    assert metrics.statistics[0] == pytest.approx((1 + half) / 2, abs=1e-12)
    assert metrics.statistics[8] == 0.75  # half of the dogs and all cats
    assert evaluate([[none, none]] * 2, engine) is None


@pytest.mark.parametrize("engine", ENGINES)
def test_masks_count_for_segm_and_categories_not_for_proposals(engine):
    pixels = np.zeros((2, 90, 100), bool)
    pixels[0, 60:80, 60:80] = pixels[1, 10:50, 10:30] = True  # half of the cat
    masks = encode_masks([[pixels[0]], [pixels[1]]])
    results = [([found(OTHER), found(BOX)], masks)] * 2
    assert evaluate(results, engine, "bbox").statistics[0] == 1
    segm = evaluate(results, engine, "segm").class_precisions
    assert segm == {10: pytest.approx(0.1), 20: 1}  # IoU 0.5 is enough for one threshold of ten
    swapped = [np.concatenate([found(BOX), found(OTHER)])] * 2
    metrics = evaluate(swapped, engine, "proposal", max_detections=(1, 2, 100))
    assert metrics.statistics[6:9].tolist() == [0.5, 1, 1] and metrics.class_precisions == {}


HIDDEN = """
import sys
sys.modules["hotcoco"] = None  # an import of it fails
from pathlib import Path
import numpy as np
from tests.soak import evaluations

evaluations.ENGINES = (None,)  # the default
for case in range({cases}):
    assert evaluations.compare((5, case), Path({file!r})) is None

from models_mm.errors import UserError
from models_mm.evaluation.coco import check_engine
from models_mm.evaluation.masks import run_lengths

print(run_lengths(np.random.default_rng(0).random((30, 40)) < 0.5)["counts"])
try:
    check_engine("hotcoco")
except UserError as error:
    print(error)
"""


def test_without_hotcoco(tmp_path):
    """pycocotools does everything with the same numbers, and the engine hotcoco is refused."""
    code = HIDDEN.format(cases=12, file=str(tmp_path / "truth.json"))
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    *_, counts, message = done.stdout.splitlines()
    mask = np.random.default_rng(0).random((30, 40)) < 0.5
    assert counts == encode_masks([[mask]])[0][0]["counts"]
    assert message == (
        "evaluation.engine: hotcoco is not installed: `pip install hotcoco` (without the setting "
        "pycocotools is used, with the same numbers)"
    )
