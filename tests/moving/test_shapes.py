"""Each reference config, as it was written: loaded, built, trained one step, tested."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import os

import pytest
import torch
from mmdet.models import build_detector

from models_mm.cli import test, train
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.settings import check_settings

from .projects import SHAPES

FAST = ("mobilenetv2", "recnext_m3")
# from scratch: the published weights are not here
SCRATCH = ("model.pretrained=None", "model.backbone.init_cfg=None")


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=[shape for _, shape in SHAPES])
def test_it_builds(name, shape, project):
    cfg = load_config(project(name)[shape], {"model.pretrained": None})
    check_settings(cfg, ("train", "val"), training=True)  # as train.py does before it builds
    check_settings(cfg, ("test",), training=False)
    with torch.device("meta"):
        backbone = build_detector(cfg.model).backbone
    if shape not in ("resnet50", "mobilenetv2"):  # mmdet's state none
        assert list(backbone.out_channels) == list(cfg.model.neck.in_channels)


def step_and_test(config: str) -> dict:
    """One iteration on one image through train.py's main, then test.py's; the checkpoint."""
    options = ["--cfg-options", *SCRATCH, "runner.max_epochs=1", "data.samples_per_gpu=1"]
    options += ["data.workers_per_gpu=0"]
    train.main([config, "--work-dir", "work", "--no-validate", *options])
    found = torch.load("work/epoch_1.pth", weights_only=True)
    metrics = ["bbox"] if "retinanet" in config else ["bbox", "segm"]
    options = ["--eval", *metrics, "--cfg-options", "data.workers_per_gpu=0"]
    test.main([config, "work/latest.pth", "--work-dir", "work", *options])
    assert any(name.startswith("eval_") for name in os.listdir("work"))
    return found


def slow_unless_fast(shapes):
    for name, shape in shapes:
        marks = () if shape in FAST else pytest.mark.slow
        yield pytest.param(name, shape, marks=marks, id=shape)


@pytest.mark.parametrize(("name", "shape"), slow_unless_fast(SHAPES))
def test_it_steps_and_tests(name, shape, project, small_images, capsys):
    found = step_and_test(project(name)[shape])
    assert found["meta"]["iter"] == 1 and len(found["optimizer"]["state"]) > 100
    assert all(torch.isfinite(v).all() for v in found["state_dict"].values())
    capsys.readouterr()
