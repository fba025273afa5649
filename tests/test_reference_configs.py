"""Configs as the reference projects write them build and learn here, each without a change."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

from pathlib import Path

import mmdet
import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmdet.models import build_backbone, build_detector

from models_mm.mmdet2.configs import ROOT

from .drawn import data_options
from .test_configs import batch_of, small

MMDET_CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_"
BIFORMER = dict(
    **dict(type="BiFormer_mm", depth=[4, 4, 18, 4], num_classes=80, drop_path_rate=0.2, n_win=16),
    **dict(embed_dim=[64, 128, 256, 512], mlp_ratios=[3, 3, 3, 3], qk_dims=[64, 128, 256, 512]),
    **dict(topks=[1, 4, 16, -2], side_dwconv=5, before_attn_dwconv=3, layer_scale_init_value=-1),
    **dict(head_dim=32, kv_downsample_mode="identity", kv_per_wins=[-1, -1, -1, -1]),
    **dict(use_checkpoint_stages=[], param_routing=False, diff_routing=False, soft_routing=False),
    **dict(pre_norm=True, pe=None, auto_pad=True, norm_eval=True),
)
DFVT = dict(
    **dict(type="DFvT", embed_dim=48, depths=[1, 1, 2, 1], num_heads=[3, 6, 12, 24], window_size=7),
    **dict(mlp_ratio=4.0, qkv_bias=True, qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0),
    **dict(drop_path_rate=0.1, ape=False, patch_norm=True, out_indices=(0, 1, 2, 3)),
    **dict(use_checkpoint=False, frozen_stages=-1),
)
# A RecNeXt config changes the type and hands on the rest of the ResNet that it inherits.
RECNEXT = dict(
    **dict(type="recnext_m3", depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1),
    **dict(norm_cfg=dict(type="BN", requires_grad=True), norm_eval=True, style="pytorch"),
)
KW_RESNET = dict(
    **dict(type="KW_ResNet", depth=50, reduction=0.0625, cell_num_ratio=1, cell_inplane_ratio=1),
    **dict(cell_outplane_ratio=1, sharing_range=("layer", "conv"), nonlocal_basis_ratio=1),
    **dict(frozen_stages=1, norm_eval=True, drop_path_rate=0.1),
)
KW_CONVNEXT = dict(
    **dict(type="KW_ConvNeXt", in_chans=3, depths=[3, 3, 9, 3], dims=[96, 192, 384, 768]),
    **dict(drop_path_rate=0.4, layer_scale_init_value=1.0, out_indices=[0, 1, 2, 3]),
    **dict(reduction=0.0625, sharing_range=("layer", "pwconv")),
)
BACKBONES = {
    "kernelwarehouse": (KW_RESNET, [256, 512, 1024, 2048]),
    "kernelwarehouse_convnext": (KW_CONVNEXT, [96, 192, 384, 768]),
    "biformer": (BIFORMER, [64, 128, 256, 512]),
    "dfvt": (DFVT, [48, 96, 192, 384]),
    "recnext": (RECNEXT, [64, 128, 256, 512]),
}


def write_config(path: Path, backbone: dict, channels: list[int]) -> Path:
    """A config that inherits mmdet's ResNet detector and puts a backbone in its place."""
    bases = ("models/mask_rcnn_r50_fpn", "datasets/coco_instance", "schedules/schedule_1x")
    bases = [f"{MMDET_CONFIGS}/{name}.py" for name in (*bases, "default_runtime")]
    delete = {} if backbone in (RECNEXT, KW_RESNET) else {"_delete_": True}
    path.write_text(
        f"_base_ = {bases}\n"
        f"model = dict(backbone={delete | backbone}, neck=dict(in_channels={channels}))\n"
        "optimizer = dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05)\n"
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize("family", BACKBONES)
def test_it_builds_and_learns_recomputing_activations(family, tmp_path, coco_data):
    torch.manual_seed(0)
    backbone, channels = BACKBONES[family]
    cfg = small(str(write_config(tmp_path / "config.py", backbone, channels)), coco_data)
    weights = tmp_path / "weights.pth"
    source = build_backbone({**cfg.model.backbone, "init_cfg": None, "pretrained": None})
    torch.save({"model": source.state_dict()}, weights)
    cfg.model.pretrained, cfg.model.backbone.use_checkpoint = str(weights), True
    model = build_detector(cfg.model).train()
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value)
    loss = MMDataParallel(model).train_step(batch_of(cfg), None)["loss"]
    loss.backward()
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)


def test_inherited_resnet_keywords_have_no_effect_and_are_named(caplog):
    model = build_backbone({**RECNEXT, "pretrained": "torchvision://resnet50"})
    (record,) = [r for r in caplog.records if "inherits from a ResNet" in r.message]
    warning = record.message
    for keyword in ("depth=50", "frozen_stages=1", "norm_eval=True", "style='pytorch'"):
        assert keyword in warning
    assert "pretrained='torchvision://resnet50'" in warning and "SyncBN" in warning
    assert all(p.requires_grad for p in model.parameters())  # nothing is frozen
    norms = [m for m in model.train().modules() if "BatchNorm" in type(m).__name__]
    assert norms and all(n.training and isinstance(n, torch.nn.SyncBatchNorm) for n in norms)
    assert model.init_cfg is None
    caplog.clear()
    alone = build_backbone(dict(type="recnext_m3", frozen_stages=1, norm_eval=True))
    assert not any(p.requires_grad for p in alone.stem.parameters()) and not caplog.records


@pytest.mark.parametrize("backbone", [RECNEXT, BIFORMER, DFVT], ids=lambda b: b["type"])
def test_unknown_keywords_are_refused(backbone):
    with pytest.raises(TypeError, match="drop_paht_rate"):
        build_backbone({**backbone, "drop_paht_rate": 0.1})


@pytest.mark.parametrize(
    "change", [{"window_size": 8}, {"ape": True}, {"patch_norm": False}, {"embed_dim": 64}]
)
def test_what_no_published_dfvt_has_is_refused(change):
    with pytest.raises(ValueError, match="published DFvT"):
        build_backbone({**DFVT, **change})


@pytest.mark.slow
def test_their_command_line(run_tool, tmp_path, coco_data):
    """tools/dist_train.sh with their options, from their kind of config."""
    config = write_config(tmp_path / "config.py", *BACKBONES["dfvt"])
    weights = tmp_path / "weights.pth"
    torch.save({"model": build_backbone(dict(DFVT)).state_dict()}, weights)
    options = data_options(coco_data, f"model.pretrained={weights}")
    options += ["model.backbone.use_checkpoint=True", "data.train.pipeline.2.img_scale=(128,96)"]
    options += ["data.workers_per_gpu=0", "data.samples_per_gpu=4"]
    done = run_tool(
        *(ROOT / "tools/dist_train.sh", config, 1, "--work-dir", tmp_path / "run"),
        *("--no-validate", *options),
        PORT="29517",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/epoch_1.pth").is_file()
    assert "loaded " + str(weights) in done.stderr + done.stdout
