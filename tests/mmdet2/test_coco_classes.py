"""A model of more classes than an annotation file has."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import numpy as np
from mmdet.datasets import build_dataset

from ..drawn import COCO_NAMES


def test_detections_of_classes_that_the_file_lacks_count_nowhere(demo_data):
    """As the same results without them, with either engine."""
    classes = tuple(COCO_NAMES)
    settings = dict(
        type="CocoDataset",
        ann_file=str(demo_data / "annotations/instances_val2017.json"),
        img_prefix=str(demo_data / "val2017"),
        pipeline=[],
        test_mode=True,
    )
    dataset = build_dataset({**settings, "classes": classes})
    wider = build_dataset({**settings, "classes": (*classes, "unicorn", "dragon")})
    results = []
    for i in range(len(dataset)):
        truth = dataset.get_ann_info(i)
        of_class = [truth["bboxes"][truth["labels"] == label] for label in range(len(classes))]
        results.append([np.insert(boxes, 4, 0.9, axis=1) for boxes in of_class])
    more = [[*image, np.array([[1, 1, 9, 9, 0.99]]), np.zeros((0, 5))] for image in results]
    expected = dataset.evaluate(results)
    assert expected["bbox_mAP"] > 0.99
    assert wider.evaluate(more) == expected
    assert dataset.evaluate(results, engine="pycocotools") == expected
