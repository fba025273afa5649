"""Numbers of the evaluation on annotation files and results that are out of the ordinary."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import json
import warnings

import numpy as np
import pytest
from mmdet.datasets import build_dataset

from models_mm.errors import UserError

from ..soak import evaluations

ENGINES = ("hotcoco", "pycocotools")
NAMES = ["cat", "dog", "hen"]
MASK = [[10.0, 10, 50, 10, 50, 50, 10, 50]]


def content_of(names=NAMES, images=(1, 2), first=1, **fields) -> dict:
    """An object of each name in each image, all of them at the same place."""
    ids = range(5, 5 - len(names), -1)  # not in the order of the names
    objects = [(i, c) for i in images for c in ids]
    return {
        "images": [{"id": i, "width": 90, "height": 80, "file_name": f"{i}.jpg"} for i in images],
        "categories": [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)],
        "annotations": [
            dict(id=first + n, image_id=i, category_id=c, bbox=[10, 10, 40, 40], area=1600.0)
            | dict(iscrowd=0, segmentation=MASK)
            | fields
            for n, (i, c) in enumerate(objects)
        ],
    }


def opened(tmp_path, content, classes=NAMES, **settings):
    """The data set of a content."""
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    settings = dict(type="CocoDataset", ann_file=str(file), classes=classes, pipeline=[]) | settings
    return build_dataset(settings, dict(test_mode=True))


def boxes(classes=NAMES, found=NAMES, count=2) -> list:
    """The true box of the classes that are found, in each image."""
    true = np.array([[10, 10, 50, 50, 0.9]], np.float32)
    nothing = np.zeros((0, 5), np.float32)
    return [[true if name in found else nothing for name in classes] for _ in range(count)]


def with_masks(results: list) -> list:
    """The same results with the true mask for each box."""
    mask = evaluations.as_run_lengths(MASK, {"height": 80, "width": 90})
    return [(image, [[dict(mask)] * len(of_class) for of_class in image]) for image in results]


def known_only(classes, found=NAMES) -> set:
    return {name for name in classes if name in found}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("classes", [["unicorn", *NAMES], ["cat", "elk", "hen", "dog"], ["hen"]])
@pytest.mark.parametrize("metric", ["bbox", "segm", "proposal"])
def test_labels_are_places_in_the_config(tmp_path, engine, classes, metric):
    """A class that the file lacks is left out with one warning; the others keep their labels."""
    content = content_of()
    lacking = [name for name in classes if name not in NAMES]
    if lacking:
        with pytest.warns(UserWarning, match=f"truth.json lacks '{lacking[0]}': left out") as seen:
            dataset = opened(tmp_path, content, classes)
        assert len([w for w in seen if "lacks" in str(w.message)]) == 1
    else:
        dataset = opened(tmp_path, content, classes)
    options = dict(engine=engine, classwise=True, proposal_nums=(1, 10, 100))
    values = dataset.evaluate(with_masks(boxes(classes, classes)), metric, **options)
    if metric == "proposal":
        assert values["AR@1000"] == 1
        return
    names = known_only(classes)
    assert values[f"{metric}_mAP"] == 1
    assert {n for n in classes if f"{metric}_mAP:{n}" in values} == names
    # one class alone is found: its own AP is 1, that of others is 0
    alone = dataset.evaluate(with_masks(boxes(classes, ["hen"])), metric, **options)
    assert {n: alone[f"{metric}_mAP:{n}"] for n in names} == {n: float(n == "hen") for n in names}


def test_labels_of_a_training_are_the_same(tmp_path):
    content = content_of()
    dataset = opened(tmp_path, content, ["hen", "unicorn", "cat"])
    assert dataset.get_ann_info(0)["labels"].tolist() == [2, 0]  # in the order of the file


def test_files_for_a_test_server_have_the_right_categories(tmp_path):
    classes = ["unicorn", "hen", "cat"]
    dataset = opened(tmp_path, content_of(), classes)
    dataset.format_results(with_masks(boxes(classes, ["unicorn", "hen"])), f"{tmp_path}/found")
    for kind in ("bbox", "segm"):
        entries = json.loads((tmp_path / f"found.{kind}.json").read_text())
        assert [entry["category_id"] for entry in entries] == [3, 3]  # hen's


@pytest.mark.parametrize("engine", ENGINES)
def test_proposals_without_a_category_of_id_one(tmp_path, engine):
    dataset = opened(tmp_path, content_of())
    found = [np.array([[10, 10, 50, 50, 0.9]] * 3, np.float32)] * 2
    assert dataset.evaluate(found, "proposal", engine=engine)["AR@100"] == 1


@pytest.mark.parametrize(
    "images",
    [(2**53 + 1, 2**53), (2**62 + 1, 2**62 + 2), (-3, 0), (2**80, 5)],
)
@pytest.mark.parametrize("metric", ["bbox", "segm", "proposal"])
@pytest.mark.parametrize("engine", ENGINES)
def test_image_ids_keep_their_value(tmp_path, images, metric, engine):
    dataset = opened(tmp_path, content_of(images=images))
    values = dataset.evaluate(with_masks(boxes()), metric, engine=engine)
    assert values["AR@100" if metric == "proposal" else f"{metric}_mAP"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_large_ids_of_categories_and_annotations(tmp_path, engine):
    content = content_of(first=2**62)
    for entry in content["categories"]:
        entry["id"] += 2**60
    for entry in content["annotations"]:
        entry["category_id"] += 2**60
    assert opened(tmp_path, content).evaluate(boxes(), engine=engine)["bbox_mAP"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_annotation_zero_counts_like_any_other(tmp_path, engine):
    """pycocotools alone takes a match with it for none."""
    dataset = opened(tmp_path, content_of(first=0))
    assert dataset.evaluate(boxes(), engine=engine)["bbox_mAP"] == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 3, 4])
def test_detections_that_are_not_finite_do_not_count(tmp_path, engine, value, column):
    dataset = opened(tmp_path, content_of())
    expected = dataset.evaluate(boxes(), engine=engine)
    results = boxes()
    bad = results[0][1].copy()
    bad[0, column] = value
    results[0][1] = np.concatenate([bad, results[0][1]])
    with pytest.warns(UserWarning, match="1 detections have a box or score that is not finite"):
        assert dataset.evaluate(results, engine=engine) == expected
        dataset.format_results(results, f"{tmp_path}/found")
    assert len(json.loads((tmp_path / "found.bbox.json").read_text())) == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": [1, 2, float("nan"), 4]}, r"annotations.0. .id 1.: bbox: .1, 2, nan, 4."),
        ({"bbox": [1, 2, 3]}, r"annotations.0. .id 1.: bbox:"),
        ({"bbox": None}, r"annotations.0. .id 1.: bbox: None"),
        ({"area": None}, r"annotations.0. .id 1.: area: None"),
        ({"area": float("inf")}, r"annotations.0. .id 1.: area: inf"),
        ({"segmentation": []}, "annotation 1 has no segmentation"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_annotations_that_cannot_be_evaluated_are_named(tmp_path, engine, fields, message):
    with pytest.raises(UserError, match=message):
        dataset = opened(tmp_path, content_of(**fields))
        dataset.evaluate(with_masks(boxes()), ["bbox", "segm"], engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_fields_that_may_be_missing(tmp_path, engine):
    content = content_of()
    for annotation in content["annotations"]:
        del annotation["segmentation"], annotation["iscrowd"]
    assert opened(tmp_path, content).evaluate(boxes(), engine=engine)["bbox_mAP"] == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("crowds", [True, False])
def test_nothing_to_find(tmp_path, engine, crowds):
    """A file without objects, or of crowds alone, has metrics of -1, as pycocotools says it."""
    content = content_of(iscrowd=1)
    if not crowds:
        content["annotations"] = []
    dataset = opened(tmp_path, content)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        values = dataset.evaluate(boxes(), engine=engine, classwise=True)
    assert crowds != any("no object of these classes" in str(w.message) for w in seen)
    numbers = {key: value for key, value in values.items() if not isinstance(value, str)}
    assert set(numbers.values()) == {-1.0} and len(numbers) == 9
    json.dumps(values, allow_nan=False)


def test_a_file_without_annotations_cannot_be_evaluated(tmp_path):
    content = content_of()
    del content["annotations"]
    dataset = opened(tmp_path, content)
    with pytest.raises(UserError, match="truth.json has no annotations.*--format-only"):
        dataset.evaluate(boxes())
    dataset.format_results(boxes(), f"{tmp_path}/found")


@pytest.mark.parametrize(
    ("content", "classes", "message"),
    [
        (content_of(["cat", "dog", "cat"]), NAMES, "categories named cat: name: 2 times"),
        (content_of(), ["cat", "dog", "cat"], "classes: 'cat' twice"),
        (content_of(), ["elk", "unicorn"], "has none of the classes 'elk', 'unicorn'"),
    ],
)
def test_classes_that_cannot_be_told_apart(tmp_path, content, classes, message):
    with pytest.raises(UserError, match=message):
        opened(tmp_path, content, classes)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (boxes()[:1], "1 results for 2 images"),
        (boxes(NAMES[:2]), "image 0 is of 2 classes, the config has 3"),
        (boxes([*NAMES, "elk"]), "image 0 is of 4 classes, the config has 3"),
        ([boxes()[0], np.zeros((0, 5))], "image 1 is a ndarray, the first one a list"),
        ([boxes()[0], None], "image 1 is neither boxes of each class"),
        ([[np.zeros((1, 4))] * 3] * 2, "image 0 has boxes that are not"),
        ([(boxes()[0], [[]] * 3)] * 2, "image 0 has not as many masks as boxes"),
        ([(boxes()[0], [[{}]] * 2)] * 2, "image 0 has not as many masks as boxes"),
    ],
)
def test_results_of_something_else(tmp_path, results, message):
    dataset = opened(tmp_path, content_of())
    for use in (dataset.evaluate, dataset.results2json):
        with pytest.raises(UserError, match=message):
            use(results, *(["unused"] if use == dataset.results2json else []))


def test_fast_recall_of_boxes_of_classes(tmp_path):
    dataset = opened(tmp_path, content_of())
    one = [np.concatenate(result) for result in boxes()]
    values = dataset.evaluate(boxes(), "proposal_fast")
    assert values == dataset.evaluate(one, "proposal_fast") and values["AR@100"] > 0


@pytest.mark.parametrize("case", range(40))
def test_random_cases(tmp_path, case):
    """What the soak tries by the thousand."""
    assert evaluations.compare((0, case), tmp_path / "truth.json") is None
