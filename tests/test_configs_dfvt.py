"""The recipe of DFvT's published rows, line by line, and what soft-NMS costs."""

import models_mm  # isort: skip  # noqa: F401  (before mmcv.ops, which do not import without it)

import time

import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.core import build_optimizer
from mmdet.models import build_detector

from models_mm.mmdet2.configs import load_config

NAMES = {"t": "tiny", "s": "small", "b": "base"}
DETECTORS = ("mask_rcnn", "faster_rcnn", "retinanet")
SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


def config(detector: str, variant: str):
    return load_config(f"configs/dfvt/{detector}_dfvt_{variant}_fpn_1x_coco.py")


@pytest.mark.parametrize("variant", NAMES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_training(detector, variant):
    cfg = config(detector, variant)
    assert cfg.optimizer == dict(
        type="AdamW",
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        paramwise_cfg=dict(
            custom_keys={
                "absolute_pos_embed": dict(decay_mult=0.0),
                "relative_position_bias_table": dict(decay_mult=0.0),
                "norm": dict(decay_mult=0.0),
            }
        ),
    )
    assert cfg.optimizer_config == dict(grad_clip=None)
    assert cfg.fp16 == dict(loss_scale="dynamic")
    assert cfg.lr_config == dict(
        policy="step", warmup="linear", warmup_iters=500, warmup_ratio=0.001, step=[8, 11]
    )
    assert cfg.runner == dict(type="EpochBasedRunner", max_epochs=12)
    assert cfg.data.samples_per_gpu == 4 and cfg.auto_scale_lr.base_batch_size == 16
    backbone = dict(cfg.model.backbone)
    checkpoint = f"pretrain/DFvT_{NAMES[variant]}_coco_pretrained.pth"
    assert backbone.pop("init_cfg") == dict(type="Pretrained", checkpoint=checkpoint)
    levels = dict(out_indices=(1, 2, 3)) if detector == "retinanet" else {}
    assert backbone == dict(type=f"dfvt_{variant}", drop_path_rate=0.1, **levels)
    assert not cfg.find_unused_parameters
    with_masks = detector == "mask_rcnn"
    assert cfg.evaluation.metric == (["bbox", "segm"] if with_masks else "bbox")


@pytest.mark.parametrize("variant", NAMES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_training_images(detector, variant):
    pipeline = config(detector, variant).data.train.pipeline
    load, annotations, flip, scale, normalize, pad, bundle, collect = pipeline
    masks = detector == "mask_rcnn"
    assert load.type == "LoadImageFromFile"
    assert annotations == dict(
        type="LoadAnnotations", with_bbox=True, **(dict(with_mask=True) if masks else {})
    )
    assert flip == dict(type="RandomFlip", flip_ratio=0.5)
    scales = [(side, 1333) for side in SHORT_SIDES]
    resize = dict(type="Resize", multiscale_mode="value", keep_ratio=True)
    crop = dict(
        type="RandomCrop",
        crop_type="absolute_range",
        crop_size=(384, 600),
        allow_negative_crop=True,
    )
    assert scale == dict(
        type="AutoAugment",
        policies=[
            [dict(resize, img_scale=scales)],
            [
                dict(resize, img_scale=[(400, 1333), (500, 1333), (600, 1333)]),
                crop,
                dict(resize, img_scale=scales, override=True),
            ],
        ],
    )
    assert normalize.mean == [123.675, 116.28, 103.53] and normalize.to_rgb
    assert normalize.std == [58.395, 57.12, 57.375]
    assert pad == dict(type="Pad", size_divisor=32)
    assert bundle.type == "DefaultFormatBundle"
    assert collect["keys"] == ["img", "gt_bboxes", "gt_labels", *(["gt_masks"] if masks else [])]


@pytest.mark.parametrize("variant", NAMES)
def test_test_settings(variant):
    cfg = config("mask_rcnn", variant)
    nms = "soft_nms" if variant == "b" else "nms"
    assert cfg.model.test_cfg == dict(
        rpn=dict(
            nms_pre=1000,
            max_per_img=1000,
            nms=dict(type=nms, iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type=nms, iou_threshold=0.5),
            max_per_img=100,
            mask_thr_binary=0.5,
        ),
    )
    augmentation = cfg.data.test.pipeline[1]
    assert augmentation.img_scale == (1333, 800) and not augmentation.flip
    assert [step.type for step in augmentation.transforms][:4] == [
        *("Resize", "RandomFlip", "Normalize", "Pad")
    ]


def test_weight_decay():
    """By substrings of names: norms of the convolution paths and the gates have none in theirs."""
    cfg = config("mask_rcnn", "t")
    detector = build_detector(cfg.model)
    groups = build_optimizer(detector, cfg.optimizer).param_groups
    decay = {id(group["params"][0]): group["weight_decay"] for group in groups}
    for name, parameter in detector.named_parameters():
        free = "norm" in name or "relative_position_bias_table" in name
        assert decay[id(parameter)] == (0 if free else 0.05), name
    of = {name: decay[id(p)] for name, p in detector.backbone.named_parameters()}
    assert of["patch_embed.norm.bias"] == of["layers.0.blocks.0.norm1.weight"] == 0
    assert of["convlayers.0.conv1.1.weight"] == 0.05
    assert of["layers.0.blocks.0.select.fc_spatial.0.weight"] == 0.05


def test_soft_nms_of_a_thousand_proposals_takes_a_moment():
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(1000, 2, generator=generator) * 600
    sizes = 20 + torch.rand(1000, 2, generator=generator) * 180
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
    scores = torch.rand(1000, generator=generator)
    levels = torch.zeros(1000, dtype=torch.long)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        kept, _ = batched_nms(boxes, scores, levels, dict(type="soft_nms", iou_threshold=0.7))
        best = min(best, time.perf_counter() - start)
    assert len(kept) > 500
    assert best < 0.5  # 0.03 measured; a loop over boxes in Python would take seconds
