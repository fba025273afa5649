"""How configs prepare photos, as an exported detector says it."""

import copy

import pytest

from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.preparation import pipelines, preparation


@pytest.fixture
def data():
    """The test data of a published config."""
    return load_config("mask_rcnn_recnext_m3_fpn_1x_coco").data.test


def test_a_published_config(data):
    found = preparation(data.pipeline)
    assert found["scale"] == (1333, 800) and found["keep_ratio"] and found["divisor"] == 32
    assert found["mean"] == (123.675, 116.28, 103.53) and found["dtype"] == "uint8"


def test_joined_and_wrapped_data_sets(data):
    """Each has a pipeline of its own."""
    other = copy.deepcopy(data)
    other.pipeline[1].img_scale = (640, 480)
    wrapped = dict(type="RepeatDataset", times=1, dataset=other)
    for joined in ([data, wrapped], dict(type="ConcatDataset", datasets=[data, wrapped])):
        scales = [preparation(pipeline)["scale"] for pipeline in pipelines(joined)]
        assert scales == [(1333, 800), (640, 480)]
