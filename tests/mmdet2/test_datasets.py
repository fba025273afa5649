"""Data sets with more classes than their annotation file, and the parts of a config's data sets."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import numpy as np
from mmdet.datasets import build_dataset

from models_mm.mmdet2.datasets import coco_sources

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


def test_the_parts_of_a_config():
    """Wrappers and lists are taken apart; what is not COCO's is said to be left out."""
    load_masks = dict(type="LoadAnnotations", with_mask=True, poly2mask=False)
    one = dict(type="CocoDataset", ann_file="a.json", img_prefix="i", classes=["star"])
    listed = one | dict(ann_file=["a.json", "b.json"], data_root="/sets", pipeline=[load_masks])
    voc = dict(type="VOCDataset", ann_file="list.txt", img_prefix="voc")
    repeated = dict(type="RepeatDataset", times=2, dataset=listed)
    both = dict(type="ConcatDataset", datasets=[repeated, voc])
    parts = list(coco_sources([dict(type="ClassBalancedDataset", dataset=one), both]))
    assert [name for name, _ in parts] == [
        *("CocoDataset a.json", "CocoDataset a.json", "CocoDataset b.json", "VOCDataset list.txt")
    ]
    first, second, third, last = [source for _, source in parts]
    assert (first["ann_file"], first["masks"], first["classes"]) == ("a.json", None, ("star",))
    assert (second["ann_file"], third["ann_file"]) == ("/sets/a.json", "/sets/b.json")
    assert second["img_prefix"] == third["img_prefix"] == "/sets/i"
    assert second["masks"] == "polygons" and last is None
    ((_, tested),) = coco_sources(one, training=False, metrics=("segm",))
    assert tested["masks"] == "pixels" and not tested["training"]
