"""``--backbone`` and ``--cfg-options model.backbone.type=``, on configs of other backbones."""

import models_mm  # noqa: F401  isort: skip
import itertools

import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmdet.core import build_optimizer
from mmdet.models import build_detector

from models_mm.cli import train as training
from models_mm.config_files import ROOT, config_files, variants
from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.settings import check_settings

from ..test_configs import batch_of, small

# one of each family, and of those that count their outputs in another way
FAMILIES = ("recnext_m3", "biformer_s", "mpvit_tiny", "dfvt_t", "kw1x_resnet50")
OTHERS = ("mobilenetv2", "kw1x_mobilenetv2", "convnext_t", "recnext_tiny")
PAIRS = list(itertools.permutations(FAMILIES, 2))


def changed(config: str, backbone: str, **more):
    return load_config(str(config_files()[config]), {"model.backbone.type": backbone, **more})


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_it_is_as_published(before, after):
    """The same as the published config of the new backbone, but for data, heads and schedule."""
    detector = "retinanet" if "mpvit" in before else "mask_rcnn"
    cfg = changed(variants()[before][detector], after)
    published = load_config(str(config_files()[variants()[after][detector]]))
    cfg.model.backbone.pop("out_indices")
    published.model.backbone.pop("out_indices", None)
    assert cfg.model.backbone == published.model.backbone
    widths = cfg.model.neck.in_channels  # three maps for MPViT's RetinaNet, for RecNeXt's four
    assert widths == published.model.neck.in_channels[-len(widths) :]
    assert cfg.optimizer == published.optimizer
    assert cfg.optimizer_config.get("grad_clip") == published.optimizer_config.get("grad_clip")
    assert cfg.get("fp16") == published.get("fp16")
    own = load_config(str(config_files()[variants()[before][detector]]))
    assert (cfg.runner, cfg.lr_config, cfg.data) == (own.runner, own.lr_config, own.data)
    check_settings(cfg, ("train", "val"), training=True)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet"])
@pytest.mark.parametrize(
    ("before", "after"),
    [*PAIRS, *(("recnext_m3", other) for other in OTHERS), *((o, "dfvt_t") for o in OTHERS)],
)
def test_it_trains(before, after, detector, coco_data):
    torch.manual_seed(0)
    if detector not in variants()[before]:
        pytest.skip(f"there is no {detector} of {before}")
    path = str(config_files()[variants()[before][detector]].relative_to(ROOT))
    cfg = small(path, coco_data, {"model.backbone.type": after})
    if "recnext_tiny" in before:  # the demo's has classes of its own
        cfg.data.train.pop("classes", None)
        cfg.merge_from_dict(
            {f"model.roi_head.{head}.num_classes": 80 for head in ("bbox_head", "mask_head")}
        )
    detector = build_detector(cfg.model)
    optimizer = build_optimizer(detector, cfg.optimizer)
    loss = MMDataParallel(detector.train()).train_step(batch_of(cfg), optimizer)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    optimizer.step()


def test_further_settings_are_those_of_the_new_one():
    name = "mask_rcnn_recnext_m3_fpn_1x_coco"
    cfg = changed(name, "dfvt_t", **{"model.backbone.drop_path_rate": 0.3, "optimizer.lr": 0.5})
    assert (cfg.model.backbone.type, cfg.model.backbone.drop_path_rate) == ("dfvt_t", 0.3)
    assert cfg.optimizer.lr == 0.5
    same = changed(name, "recnext_m3")._cfg_dict
    assert same == load_config(str(config_files()[name]))._cfg_dict


def test_only_the_maps_that_the_neck_takes(tmp_path):
    """A neck of the strides 8 and 16; and one of a backbone that counts its outputs by layers."""
    base = config_files()["faster_rcnn_recnext_m3_fpn_1x_coco"]
    config = tmp_path / "two.py"
    lines = f"_base_ = {str(base)!r}\nmodel = dict(backbone=dict(out_indices=(1, 2)), "
    config.write_text(lines + "neck=dict(in_channels=[128, 256]))\n")
    cfg = load_config(str(config), {"model.backbone.type": "mobilenetv2"})
    assert cfg.model.backbone.out_indices == (2, 4) and cfg.model.neck.in_channels == [32, 96]
    cfg = changed("retinanet_mobilenetv2_fpn_1x_coco", "recnext_m5")
    assert cfg.model.backbone.out_indices == (1, 2, 3)
    assert cfg.model.neck.in_channels == [160, 320, 640]


def test_what_has_no_neck_is_refused(tmp_path):
    base = config_files()["faster_rcnn_recnext_m3_fpn_1x_coco"]
    config = tmp_path / "none.py"
    config.write_text(f"_base_ = {str(base)!r}\nmodel = dict(neck=None)\n")
    with pytest.raises(UserError, match="the backbone dfvt_t needs a neck whose in_channels"):
        load_config(str(config), {"model.backbone.type": "dfvt_t"})
    with pytest.raises(UserError, match="no backbone 'dfvt_x'; the nearest: dfvt_"):
        training.main([str(config), "--backbone", "dfvt_x"])
