"""Pictures and analyses of data sets that lack classes, objects or detections."""

import cv2
import numpy as np
import pytest

from models_mm.errors import UserError
from models_mm.mmdet2.analysis import confusion_matrix, error_analysis
from models_mm.mmdet2.pictures import draw_comparisons

from .test_coco_numbers import NAMES, boxes, content_of, opened, with_masks

WIDER = ["elk", "cat", "hen"]
CASES = {
    "crowds alone": (content_of(iscrowd=1), NAMES, with_masks(boxes())),
    "no objects": ({**content_of(), "annotations": []}, NAMES, boxes()),
    "no detections": (content_of(), NAMES, boxes(found=[])),
    "classes lacking": (content_of(), WIDER, with_masks(boxes(WIDER, WIDER))),
    "large ids": (content_of(images=(2**62, 2**62 + 1), first=0), NAMES, boxes()),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_unusual_data_can_be_looked_at(tmp_path, case):
    content, classes, results = CASES[case]
    for image in content["images"]:
        cv2.imwrite(str(tmp_path / image["file_name"]), np.full((80, 90, 3), 99, np.uint8))
    dataset = opened(tmp_path, content, classes, img_prefix=str(tmp_path))
    out = tmp_path / "out"
    drawn = [
        confusion_matrix(dataset, results, out, 0.3),
        *draw_comparisons(dataset, results, str(out), 2),
        *error_analysis(dataset, results, out),
    ]
    kinds = 0 if case == "no detections" else 2 if isinstance(results[0], tuple) else 1
    assert len(drawn) == len(set(drawn)) == 3 + 4 * kinds
    assert all(cv2.imread(str(file)) is not None for file in drawn)


def test_the_confusion_matrix_has_the_labels_of_the_config(tmp_path, monkeypatch):
    """What is found rightly lies on the diagonal, also where the file lacks a class."""
    seen = []
    module = "models_mm.mmdet2.analysis.plot_confusion_matrix"
    monkeypatch.setattr(module, lambda shares, names, file: seen.append((shares, names)))
    content = content_of()
    for number, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = [10 + 12 * (number % 3), 10, 10, 10]
        annotation["area"] = 100
    dataset = opened(tmp_path, content, WIDER)
    found = [
        [
            np.array([[*box, 0.9] for box in truth["bboxes"][truth["labels"] == label]]).reshape(
                -1, 5
            )
            for label in range(3)
        ]
        for truth in map(dataset.get_ann_info, range(2))
    ]
    confusion_matrix(dataset, found, tmp_path / "out", 0.3)
    ((shares, names),) = seen
    assert names == (*WIDER, "background")
    assert shares.tolist() == np.diag([0, 100, 100, 0]).tolist()


def test_annotations_without_areas_are_named(tmp_path):
    content = content_of()
    del content["annotations"][3]["area"]
    with pytest.raises(UserError, match="annotations.3. .id 4.: area: missing"):
        opened(tmp_path, content)
