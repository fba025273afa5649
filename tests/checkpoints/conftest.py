"""Published files of RecNeXt as the authors lay them out, and detectors to load them into."""

import models_mm  # isort: skip  # noqa: F401  (before mmcv: makes mmcv.ops importable)

import copy
from pathlib import Path

import pytest
import torch
from mmcv import Config
from mmdet.models import build_backbone, build_detector

CONFIG = Path(__file__).parents[2] / "configs/recnext/faster_rcnn_recnext_m3_fpn_1x_coco.py"


def randomised(state: dict, seed: int) -> dict:
    """The same names and shapes with other values, so that loading nothing does not pass."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else value + 7
        for key, value in state.items()
    }


def head_entries(width: int) -> dict:
    """The two classifiers of a classification file: seven entries each."""
    head = {
        "norm.weight": torch.rand(width),
        "norm.bias": torch.rand(width),
        "norm.running_mean": torch.rand(width),
        "norm.running_var": torch.rand(width),
        "norm.num_batches_tracked": torch.tensor(9),
        "linear.weight": torch.rand(1000, width),
        "linear.bias": torch.rand(1000),
    }
    names = ("head.head", "head.head_dist")
    return {f"{name}.{key}": value for name in names for key, value in head.items()}


@pytest.fixture(scope="session")
def published():
    """The entries of ``recnext_m3_distill_300e.pth``: backbone and heads, other values."""
    state = build_backbone(dict(type="recnext_m3")).state_dict()
    return randomised(state, seed=1) | head_entries(512)


def small_config() -> Config:
    """The published Faster R-CNN config with narrow neck and heads, and no file to start from."""
    cfg = Config.fromfile(str(CONFIG))
    cfg.merge_from_dict(
        {
            "model.backbone.init_cfg": None,
            "model.backbone.norm_cfg.type": "BN",
            "model.neck.out_channels": 16,
            "model.rpn_head.in_channels": 16,
            "model.rpn_head.feat_channels": 16,
            "model.roi_head.bbox_roi_extractor.out_channels": 16,
            "model.roi_head.bbox_head.in_channels": 16,
            "model.roi_head.bbox_head.fc_out_channels": 32,
        }
    )
    return cfg


@pytest.fixture(scope="session")
def new_detector():
    """Build the small detector, with some settings changed."""

    def build(**changes):
        cfg = small_config()
        cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
        return build_detector(cfg.model)

    return build


@pytest.fixture(scope="session")
def untouched_detector(new_detector):
    return new_detector()


@pytest.fixture
def detector(untouched_detector):
    """The small detector, ever anew."""
    return copy.deepcopy(untouched_detector)


@pytest.fixture(scope="session")
def detector_state(untouched_detector):
    """The weights of a trained small detector."""
    return randomised(untouched_detector.state_dict(), seed=2)


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint; returns its path as text."""

    def write(content, name="file.pth", **kwargs):
        torch.save(content, tmp_path / name, **kwargs)
        return str(tmp_path / name)

    return write


def snapshot(model) -> dict:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(state: dict, expected: dict):
    assert state.keys() == expected.keys()
    different = [key for key, value in expected.items() if not torch.equal(state[key], value)]
    assert different == []
