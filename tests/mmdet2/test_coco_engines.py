"""hotcoco's numbers beside pycocotools', through the same evaluate(), on data with crowds."""

import copy
import json
import logging

import models_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
from mmdet.datasets import build_dataset
from pycocotools.cocoeval import COCOeval

import models_mm.evaluation.coco as fast_coco
from models_mm.errors import UserError
from models_mm.mmdet2.benchmark_eval import draw_results, draw_truth

ENGINES = ("pycocotools", "hotcoco")


def dataset_of(file, **settings):
    """A fresh data set, because pycocotools rewrites the annotations that it evaluates."""
    names = [category["name"] for category in json.loads(file.read_text())["categories"]]
    settings = dict(type="CocoDataset", ann_file=str(file), classes=names, pipeline=[]) | settings
    return build_dataset(settings, dict(test_mode=True))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Annotations of 40 images, and results of a detector with masks."""
    rng = np.random.default_rng(1)
    content = draw_truth(40, 5, rng)
    # an image without objects, one of crowds only, areas at the very limits, and other ids
    for annotation in content["annotations"]:
        annotation["iscrowd"] |= annotation["image_id"] == 3
        if annotation["image_id"] == 4:
            annotation["area"] = float(32**2)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]
    for category in content["categories"]:
        category["id"] = 36 - 7 * category["id"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 36 - 7 * annotation["category_id"]
    file = tmp_path_factory.mktemp("coco") / "truth.json"
    file.write_text(json.dumps(content))
    return file, draw_results(dataset_of(file), 60, rng)


class Messages(logging.Handler):
    """What a logger is told, in a list."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def evaluated(file, results, engine, monkeypatch, **options):
    """Returned metrics, all statistics of each metric, and the tables."""
    statistics = []

    class Recorded(COCOeval):
        def summarize(self):
            super().summarize()
            statistics.append(np.array(self.stats))

    monkeypatch.setattr(fast_coco, "COCOeval", Recorded)
    logger, messages = logging.getLogger(f"{__name__}.{engine}"), Messages()
    logger.setLevel("INFO")
    logger.handlers = [messages]
    values = dataset_of(file).evaluate(
        copy.deepcopy(results), logger=logger, engine=engine, **options
    )
    return dict(values), statistics, messages.lines


OPTIONS = {
    "boxes": dict(metric="bbox"),
    "both, by class": dict(metric=["bbox", "segm"], classwise=True),
    "proposals": dict(metric="proposal"),
    "numbers of proposals": dict(metric=["bbox"], proposal_nums=(1, 10, 100)),
    "few detections": dict(metric=["segm", "bbox"], proposal_nums=(3, 100, 10)),
    "items": dict(metric=["bbox", "segm"], metric_items=["mAP_s", "AR@1000", "AR_l@1000"]),
    "thresholds": dict(metric="segm", iou_thrs=[0.3, 0.5]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_both_engines_say_the_same(drawn, monkeypatch, name):
    said = [evaluated(*drawn, engine, monkeypatch, **OPTIONS[name]) for engine in ENGINES]
    (values, statistics, lines), (fast_values, fast_statistics, fast_lines) = said
    assert values == fast_values and list(values) == list(fast_values)
    assert len(statistics) == len(fast_statistics) > 0
    for theirs, ours in zip(statistics, fast_statistics, strict=True):
        assert len(theirs) == 12 and np.abs(theirs - ours).max() <= 1e-12
        assert np.unique(theirs).size > 3  # not all zeros
    if "by class" not in name:  # mmdet names the wrong classes where ids are not in order
        assert lines == fast_lines


def test_classes_have_their_own_ap(drawn, monkeypatch):
    """One class evaluated alone has the AP that its row says."""
    file, results = drawn
    _, _, lines = evaluated(file, results, "hotcoco", monkeypatch, classwise=True)
    table = next(line for line in lines if "| category" in line)
    cells = [cell.strip() for cell in table.split("|")]
    for place, name in enumerate(dataset_of(file).CLASSES):
        alone = [([boxes[place]], [masks[place]]) for boxes, masks in results]
        value = dataset_of(file, classes=[name]).evaluate(alone, "bbox", engine="pycocotools")
        assert float(cells[cells.index(name) + 1]) == pytest.approx(value["bbox_mAP"], abs=6e-4)


@pytest.mark.parametrize("metric", ["proposal", "proposal_fast"])
def test_results_of_proposals(drawn, metric):
    file, results = drawn
    proposals = [np.concatenate(boxes) for boxes, _ in results]
    values = [dataset_of(file).evaluate(proposals, metric, engine=engine) for engine in ENGINES]
    assert values[0] == values[1] and values[0]["AR@100"] > 0.1


def test_masks_with_scores_of_their_own(drawn):
    file, results = drawn
    rng = np.random.default_rng(2)
    scored = [
        (boxes, (masks, [rng.random(len(of_class)) for of_class in boxes]))
        for boxes, masks in results
    ]
    values = [
        dict(dataset_of(file).evaluate(copy.deepcopy(scored), ["bbox", "segm"], engine=engine))
        for engine in ENGINES
    ]
    assert values[0] == values[1]
    plain = dataset_of(file).evaluate(results, ["bbox", "segm"])
    assert plain["bbox_mAP"] == values[0]["bbox_mAP"] and plain["segm_mAP"] != values[0]["segm_mAP"]


def test_evaluating_twice_changes_nothing(drawn):
    """After pycocotools as well, which turns the true polygons into run lengths."""
    file, results = drawn
    dataset = dataset_of(file)
    values = [
        dict(dataset.evaluate(copy.deepcopy(results), ["bbox", "segm"], engine=engine))
        for engine in ("hotcoco", "pycocotools", "hotcoco", "hotcoco")
    ]
    assert all(value == values[0] for value in values)


def test_no_detection_at_all(drawn):
    file, results = drawn
    nothing = [([np.zeros((0, 5), np.float32)] * 5, [[]] * 5) for _ in results]
    for engine in ENGINES:
        assert not dataset_of(file).evaluate(nothing, ["bbox", "segm"], engine=engine)


def test_json_files_on_request(drawn, tmp_path):
    file, results = drawn
    dataset_of(file).evaluate(copy.deepcopy(results), "bbox", jsonfile_prefix=f"{tmp_path}/found")
    for kind, key in (("bbox", "bbox"), ("segm", "segmentation")):
        found = json.loads((tmp_path / f"found.{kind}.json").read_text())
        assert len(found) == 40 * 60 and key in found[0]


def test_what_is_refused(drawn):
    file, results = drawn
    dataset = dataset_of(file)
    with pytest.raises(UserError, match="hotcoco or pycocotools, not 'lightning'"):
        dataset.evaluate(results, engine="lightning")
    with pytest.raises(KeyError, match="metric mAP is not supported"):
        dataset.evaluate(results, "mAP")
    with pytest.raises(KeyError, match="metric item AP is not supported"):
        dataset.evaluate(results, metric_items=["AP"])
    with pytest.raises(KeyError, match="segm is not in results"):
        dataset.evaluate([boxes for boxes, _ in results], "segm")
    with pytest.raises(UserError, match="39 results for 40 images"):
        dataset.evaluate(results[1:])
