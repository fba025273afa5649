"""What training and testing settle before they build a model."""

import json

import models_mm  # noqa: F401  isort: skip
import pytest
import torch
from mmcv import Config

from models_mm.errors import UserError
from models_mm.mmdet2.building import build_data, settle_device


@pytest.fixture
def data(tmp_path):
    """The config of a data set of one image with the categories that are given."""

    def make(*names: str, **settings) -> dict:
        file = tmp_path / f"{'-'.join(names)}.json"
        image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}
        box |= {"area": 600, "iscrowd": 0}
        categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
        content = {"images": [image], "annotations": [box], "categories": categories}
        file.write_text(json.dumps(content))
        return dict(type="CocoDataset", ann_file=str(file), pipeline=[], **settings)

    return make


def wrapped(kind: str, data) -> dict:
    if kind == "ConcatDataset":
        return dict(type=kind, datasets=[data, data])
    more = {"times": 2} if kind == "RepeatDataset" else {"oversample_thr": 0.1}
    more = {"pipeline": []} if kind == "MultiImageMixDataset" else more
    return dict(type=kind, dataset=data, **more)


@pytest.mark.parametrize(
    "kind", ["", "RepeatDataset", "ConcatDataset", "ClassBalancedDataset", "MultiImageMixDataset"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_class_that_the_training_data_lack(data, kind):
    """Refused with the nearest, inside every wrapper; the evaluation goes on without it."""
    cfg = data("person", "bicycle", classes=("person", "bycicle"))
    cfg = wrapped(kind, cfg) if kind else cfg
    with pytest.raises(UserError, match="'bycicle', which classes= .* did you mean 'bicycle'"):
        build_data(cfg, "train")
    build_data(cfg, "val")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_classes_that_some_file_has(data):
    """Files may have some of the classes each, and of COCO's 80 any."""
    classes = ("person", "lamp")
    parts = [data("person", classes=classes), data("lamp", classes=classes)]
    assert len(build_data(dict(type="ConcatDataset", datasets=parts), "train")) == 2
    assert len(build_data(data("person"), "train")) == 1


def test_cudnn_benchmark():
    before = torch.backends.cudnn.benchmark
    try:
        for wanted in (True, False):
            settle_device(Config(dict(cudnn_benchmark=wanted)))
            assert torch.backends.cudnn.benchmark == wanted
    finally:
        torch.backends.cudnn.benchmark = before


def test_a_device_that_is_not_the_machines():
    with pytest.warns(UserWarning, match="device='npu' of the config is not used"):
        settle_device(Config(dict(device="npu")))
