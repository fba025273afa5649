"""Every published detector can be exported for all sizes, and finds the same in the file.

`make test-export` runs all of them, which takes hours; `make test-slow` runs one of each family.
"""

import re

import pytest
import torch

import models_mm  # isort: skip
from mmdet.models import build_detector

from models_mm.cli import export
from models_mm.mmdet2.configs import load_config

NAME = re.compile(r"(mask_rcnn|faster_rcnn|cascade_mask_rcnn|retinanet)_(\w+)_fpn_1x_coco")
NAMES = [name for name in models_mm.list_configs() if NAME.fullmatch(name)]
SAMPLE = (
    *("mask_rcnn_recnext_a3", "retinanet_biformer_s", "faster_rcnn_mpvit_tiny"),
    *("cascade_mask_rcnn_dfvt_t", "retinanet_kw1x_mobilenetv2"),
)


def marks(name: str) -> list:
    """The sample is slow, all others are for `make test-export` alone."""
    sample = name.removesuffix("_fpn_1x_coco") in SAMPLE
    return [pytest.mark.slow if sample else pytest.mark.export]


def test_all_detectors_are_there():
    found = [NAME.fullmatch(name).groups() for name in NAMES]
    backbones = {backbone for _, backbone in found}
    assert len(backbones) >= 22 and len(found) == 4 * len(backbones)
    assert {f"{name}_fpn_1x_coco" for name in SAMPLE} <= set(NAMES)


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in NAMES])
def test_a_detector_is_equal(name, tmp_path, capsys):
    """Random weights, of which those of the heads are large enough that scores differ."""
    pytest.importorskip("onnxscript")
    cfg = load_config(name)
    cfg.model.backbone.init_cfg = cfg.model.train_cfg = None
    torch.manual_seed(0)
    model = build_detector(cfg.model)
    for path, parameter in model.named_parameters():
        if "head" in path and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
    weights = tmp_path / "weights.pth"
    classes = tuple(f"class {label}" for label in range(80))
    torch.save({"meta": {"CLASSES": classes}, "state_dict": model.state_dict()}, weights)
    out = tmp_path / "detector.onnx"
    smaller = ["--cfg-options", "data.test.pipeline.1.img_scale=(256,192)"]
    export.main([name, str(weights), "--out", str(out), "--verify", *smaller])
    objects = re.findall(r"^drawn \S+ +(\d+)", capsys.readouterr().out, re.M)
    assert out.is_file() and len(objects) == 4 and any(map(int, objects))
