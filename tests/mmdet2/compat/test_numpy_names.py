"""The parts of mmdet and mmcv that still say ``np.int`` and ``np.float``, used."""

import json
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.core import build_assigner, build_sampler
from mmdet.datasets import build_dataset

from models_mm.mmdet2.compat import numpy_names

CLASSES = ("cat", "dog")
# (width, height), then class and corners; dogs are rare
IMAGES = [
    ((64, 48), [("cat", (4, 4, 30, 40))]),
    ((64, 48), [("cat", (10, 8, 50, 44)), ("cat", (2, 2, 12, 12))]),
    ((48, 64), [("cat", (1, 1, 20, 60))]),
    ((64, 48), [("dog", (20, 10, 60, 40)), ("cat", (2, 30, 18, 46))]),
]


def annotations():
    for size, objects in IMAGES:
        boxes = np.array([corners for _, corners in objects], np.float32)
        labels = np.array([CLASSES.index(name) for name, _ in objects])
        yield size, boxes, labels


@pytest.fixture
def coco(tmp_path):
    images, objects = [], []
    for index, ((width, height), boxes, labels) in enumerate(annotations()):
        images.append({"id": index, "file_name": f"{index}.jpg", "width": width, "height": height})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
            common = {"id": len(objects) + 1, "image_id": index, "iscrowd": 0, "area": area}
            objects.append({**common, "category_id": 7 * label + 3, "bbox": box})
    categories = [{"id": 7 * label + 3, "name": name} for label, name in enumerate(CLASSES)]
    file = tmp_path / "coco.json"
    file.write_text(
        json.dumps({"images": images, "annotations": objects, "categories": categories})
    )
    return dict(type="CocoDataset", ann_file=str(file), classes=CLASSES, pipeline=[])


@pytest.fixture
def middle_format(tmp_path):
    """mmdet's own format, whose ``get_cat_ids`` says ``np.int``."""
    infos = [
        dict(filename=f"{i}.jpg", width=w, height=h, ann=dict(bboxes=boxes, labels=labels))
        for i, ((w, h), boxes, labels) in enumerate(annotations())
    ]
    file = tmp_path / "middle.pkl"
    file.write_bytes(pickle.dumps(infos))
    return dict(type="CustomDataset", ann_file=str(file), classes=CLASSES, pipeline=[])


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOC2007"
    (root / "Annotations").mkdir(parents=True)
    for index, ((width, height), objects) in enumerate(IMAGES):
        text = "".join(
            f"<object><name>{name}</name><difficult>0</difficult><bndbox>"
            # VOC counts pixels from 1
            f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2 + 1}</xmax><ymax>{y2 + 1}</ymax>"
            "</bndbox></object>"
            for name, (x1, y1, x2, y2) in objects
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (root / "Annotations" / f"{index}.xml").write_text(f"<annotation>{size}{text}</annotation>")
    ids = tmp_path / "test.txt"
    ids.write_text("".join(f"{index}\n" for index in range(len(IMAGES))))
    # no test_mode: the file list alone, and the annotations are read
    return dict(
        type="VOCDataset", ann_file=str(ids), img_prefix=f"{root}/", classes=CLASSES, pipeline=[]
    )


@pytest.mark.filterwarnings("ignore:CustomDataset does not support filtering")
@pytest.mark.parametrize("source", ["coco", "middle_format", "voc"])
def test_class_balanced_dataset(request, source):
    dataset = dict(request.getfixturevalue(source))
    balanced = build_dataset(dict(type="ClassBalancedDataset", dataset=dataset, oversample_thr=0.9))
    # dogs are in a quarter of the images: repeated ceil(sqrt(0.9 / 0.25)) times; cats in all
    assert balanced.repeat_indices == [0, 1, 2, 3, 3]
    assert [len(balanced.get_ann_info(i)["bboxes"]) for i in range(5)] == [1, 2, 1, 2, 2]


def test_voc_evaluation(voc):
    dataset = build_dataset(voc)
    results = [
        [
            np.array([(*box, 0.9) for box in boxes[labels == label]], np.float32).reshape(-1, 5)
            for label in range(2)
        ]
        for _, boxes, labels in annotations()
    ]
    assert dataset.evaluate(results)["mAP"] == pytest.approx(1)
    results[3][1][:, :4] += 100  # the only dog is missed
    assert dataset.evaluate(results)["mAP"] == pytest.approx(0.5)


def iou_balanced(num):
    """Sample from 400 boxes around one object; positives, negatives and their IoUs."""
    truth = torch.tensor([[10.0, 10, 50, 50]])
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 40], 1)
    assigner = build_assigner(
        dict(type="MaxIoUAssigner", pos_iou_thr=0.7, neg_iou_thr=0.7, min_pos_iou=0.7)
    )
    assigned = assigner.assign(boxes, truth)
    np.random.seed(0)
    sampler = build_sampler(
        dict(
            type="IoUBalancedNegSampler",
            num=num,
            pos_fraction=0.25,
            add_gt_as_proposals=False,
            floor_thr=0.1,
            floor_fraction=0.2,
            num_bins=3,
        )
    )
    sampled = sampler.sample(assigned, boxes, truth, torch.tensor([0]))
    assert len(sampled.pos_inds) + len(sampled.neg_inds) == num
    assert len(set(sampled.neg_inds.tolist())) == len(sampled.neg_inds)
    return assigned.max_overlaps, sampled.neg_inds


def test_iou_balanced_sampler():
    ious, chosen = iou_balanced(60)
    assert (ious[chosen] < 0.7).all()
    # a fifth from below the floor, the others evenly from three bins of IoU
    assert (ious[chosen] < 0.1).sum() == len(chosen) // 5
    assert (ious[chosen] > 0.5).sum() >= 12


def test_iou_balanced_sampler_takes_all_of_a_sparse_bin():
    ious, chosen = iou_balanced(300)
    edge = 0.1 + (ious.max() - 0.1) * 2 / 3
    sparse = ((ious >= edge) & (ious < 0.7)).nonzero().view(-1)
    assert 0 < len(sparse) < 0.8 * len(chosen) / 3
    assert set(sparse.tolist()) <= set(chosen.tolist())


def test_names_are_the_builtins():
    assert np.int is int
    assert np.float is float


def test_no_other_removed_name_is_used():
    """A grep over the installed packages, so that an update of theirs is noticed."""
    removed = re.compile(r"\bnp\.(bool|object|str|long|unicode|complex)\b")
    for package in ("mmcv", "mmdet"):
        for file in Path(sys.modules[package].__file__).parent.rglob("*.py"):
            assert not removed.search(file.read_text(encoding="utf-8")), file


def test_apply_twice():
    before = dict(vars(np))
    numpy_names.apply()
    assert dict(vars(np)) == before
