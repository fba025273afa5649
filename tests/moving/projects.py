"""The folders of the reference projects on mmdet, with configs that repeat the facts of theirs.

Written from the published recipes: which base files they inherit, which keywords they set and which
they inherit by accident, their runners, hooks and parameter rules. Base files are mmdet's own, in
the form that each project's generation of mmdet had.
"""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

from pathlib import Path
from pprint import pformat

import mmdet
from mmcv import Config

MMDET = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_"
BASES = (
    *("models/mask_rcnn_r50_fpn.py", "models/retinanet_r50_fpn.py"),
    *("datasets/coco_instance.py", "datasets/coco_detection.py"),
    *("schedules/schedule_1x.py", "default_runtime.py"),
)
# multi-scale with crops, of the projects that descend from Swin's detection
PIPELINE = """\
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
scales = [(480, 1333), (512, 1333), (544, 1333), (576, 1333), (608, 1333), (640, 1333),
          (672, 1333), (704, 1333), (736, 1333), (768, 1333), (800, 1333)]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='AutoAugment', policies=[
        [dict(type='Resize', img_scale=scales, multiscale_mode='value', keep_ratio=True)],
        [dict(type='Resize', img_scale=[(400, 1333), (500, 1333), (600, 1333)],
              multiscale_mode='value', keep_ratio=True),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600),
              allow_negative_crop=True),
         dict(type='Resize', img_scale=scales, multiscale_mode='value', override=True,
              keep_ratio=True)]]),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size_divisor=32),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels', 'gt_masks']),
]
"""
# Swin's parameter rules
RULES = dict(
    absolute_pos_embed=dict(decay_mult=0.0),
    relative_position_bias_table=dict(decay_mult=0.0),
    norm=dict(decay_mult=0.0),
)
ADAMW = dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
# an apex-era training: the runner and the hook of Swin's detection
APEX = dict(
    runner=dict(type="EpochBasedRunnerAmp", max_epochs=12),
    fp16=None,
    optimizer_config=dict(
        type="DistOptimizerHook",
        update_interval=1,
        grad_clip=None,
        coalesce=True,
        bucket_size_mb=-1,
        use_fp16=True,
    ),
)


def bases(root: Path, folder: str, old: bool) -> None:
    """Write a project's ``_base_`` folder; ``old`` is mmdet 2.11, which had no ``init_cfg``."""
    for name in BASES:
        cfg = Config.fromfile(str(MMDET / name))
        if old and "model" in cfg:
            cfg.model.pretrained = cfg.model.backbone.pop("init_cfg").checkpoint
        for newer in ("auto_scale_lr", "opencv_num_threads", "mp_start_method"):
            if old:
                cfg.pop(newer, None)
        file = root / folder / "_base_" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(str(file))


def write(file: Path, base: list[str], text: str = "", **settings) -> Path:
    """Write a config: its bases, lines of its own, and settings."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"_base_ = {base}", text]
    lines += [f"{key} = {pformat(value, sort_dicts=False)}" for key, value in settings.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


def detector_bases(detector: str, prefix: str) -> list[str]:
    """The four base files of a detector's config."""
    model = "mask_rcnn" if "mask" in detector else "retinanet"
    data = "coco_instance" if "mask" in detector else "coco_detection"
    names = (f"models/{model}_r50_fpn", f"datasets/{data}", "schedules/schedule_1x")
    return [f"{prefix}_base_/{name}.py" for name in (*names, "default_runtime")]


def kernelwarehouse(root: Path) -> dict[str, Path]:
    """Eight Mask R-CNNs; all backbones but ConvNeXt inherit the rest of mmdet's ResNet."""
    bases(root, "configs", old=True)
    warehouses = dict(reduction=0.0625, cell_inplane_ratio=1, cell_outplane_ratio=1)
    warehouses |= dict(nonlocal_basis_ratio=1)
    shared = dict(frozen_stages=1, norm_eval=True)
    mobile = dict(width_mult=1.0, out_indices=(1, 2, 3, 4), **shared)
    sizes = dict(in_chans=3, depths=[3, 3, 9, 3], dims=[96, 192, 384, 768], drop_path_rate=0.4)
    convnext = dict(_delete_=True, layer_scale_init_value=1.0, out_indices=[0, 1, 2, 3], **sizes)
    conv, pwconv, layer = ("layer", "conv"), ("layer", "pwconv"), "layer"
    backbones = {
        "resnet50": dict(type="ResNet", depth=50, **shared),
        **{
            f"kw{n}x_resnet50": dict(
                type="KW_ResNet", depth=50, cell_num_ratio=n, sharing_range=conv, **warehouses
            )
            | shared
            for n in (1, 4)
        },
        "mobilenetv2": dict(type="MobileNetV2", **mobile),
        **{
            f"kw{n}x_mobilenetv2": dict(
                type="KW_MobileNetV2", cell_num_ratio=n, sharing_range=sharing, **warehouses
            )
            | mobile
            for n, sharing in ((1, pwconv), (4, layer))
        },
        "convnext_t": dict(type="ConvNeXt", **convnext),
        "kw1x_convnext_t": dict(type="KW_ConvNeXt", sharing_range=pwconv, **convnext, **warehouses),
    }
    files = {}
    for name, backbone in backbones.items():
        channels = [96, 192, 384, 768]
        optimizer = ADAMW | dict(paramwise_cfg=dict(custom_keys=RULES))
        more = dict(lr_config=dict(step=[8, 11]), find_unused_parameters=True)
        if "convnext" in name:
            decay = dict(decay_rate=0.95, decay_type="layer_wise", num_layers=6)
            optimizer = ADAMW | dict(paramwise_cfg=decay)
            optimizer["constructor"] = "LearningRateDecayOptimizerConstructor"
            more = dict(lr_config=dict(step=[9, 11]))
        elif "resnet" in name:
            channels = [256, 512, 1024, 2048]
        else:
            channels = [24, 32, 96, 1280]
        files[name] = write(
            root / "configs/kernelwarehouse" / f"mask_rcnn_{name}_adamw_1x_coco.py",
            detector_bases("mask_rcnn", "../"),
            f"{PIPELINE}data = dict(train=dict(pipeline=train_pipeline))",
            model=dict(
                pretrained="path/to/imagenet.pth",
                backbone=backbone,
                neck=dict(in_channels=channels),
            ),
            optimizer=optimizer,
            runner=dict(type="EpochBasedRunner", max_epochs=12),
            **more,
        )
    return files


def recnext(root: Path) -> dict[str, Path]:
    """M and A on mmdet 2.28.2; the backbone's type is changed and the ResNet's rest stays."""
    bases(root, "configs", old=False)
    files = {}
    for name in ("m3", "m4", "m5", "a3", "a4", "a5"):
        width = 80 if name[1] == "5" else 64
        weights = f"pretrain/recnext_{name}_distill_300e.pth"
        files[f"recnext_{name}"] = write(
            root / "configs" / f"mask_rcnn_recnext_{name}_fpn_1x_coco.py",
            detector_bases("mask_rcnn", ""),
            model=dict(
                pretrained="torchvision://resnet50",
                backbone=dict(
                    type=f"recnext_{name}",
                    init_cfg=dict(type="Pretrained", checkpoint=weights),
                ),
                neck=dict(type="FPN", in_channels=[width * 2**i for i in range(4)], num_outs=5),
            ),
            optimizer=dict(_delete_=True, type="AdamW", lr=2e-4, weight_decay=0.05),
            optimizer_config=dict(grad_clip=None),
            lr_config=dict(warmup_ratio=1e-6),
        )
    return files


def biformer(root: Path) -> dict[str, Path]:
    """Mask R-CNN and RetinaNet of S and B, with ``fp16 = dict()`` and dots in the files' names."""
    bases(root, "configs", old=True)
    files = {}
    for detector in ("maskrcnn", "retinanet"):
        for size, width, rate in (("small", 64, 0.2), ("base", 96, 0.3)):
            dims = [width * 2**i for i in range(4)]
            backbone = dict(
                _delete_=True,
                **dict(type="BiFormer_mm", depth=[4, 4, 18, 4], num_classes=80, embed_dim=dims),
                **dict(mlp_ratios=[3, 3, 3, 3], n_win=16, kv_downsample_mode="identity"),
                **dict(kv_per_wins=[-1, -1, -1, -1], topks=[1, 4, 16, -2], side_dwconv=5),
                **dict(before_attn_dwconv=3, layer_scale_init_value=-1, qk_dims=dims, head_dim=32),
                **dict(param_routing=False, diff_routing=False, soft_routing=False, pre_norm=True),
                **dict(pe=None, auto_pad=True, use_checkpoint_stages=[], drop_path_rate=rate),
            )
            masks = detector == "maskrcnn"
            optimizer = ADAMW | (
                dict(paramwise_cfg=dict(custom_keys=RULES)) if masks else dict(weight_decay=1e-4)
            )
            more = {} if masks else dict(find_unused_parameters=True)
            files[f"{detector}_biformer_{size}"] = write(
                root / "configs/coco" / f"{detector}.1x.biformer_{size}.py",
                detector_bases(detector, "../"),
                model=dict(pretrained=None, backbone=backbone, neck=dict(in_channels=dims)),
                optimizer=optimizer,
                lr_config=dict(step=[8, 11]),
                runner=dict(type="EpochBasedRunner", max_epochs=12),
                fp16=dict(),
                checkpoint_config=dict(interval=1, max_keep_ckpts=1),
                log_config=dict(
                    interval=50,
                    hooks=[dict(type="TextLoggerHook"), dict(type="TensorboardLoggerHook")],
                ),
                **more,
            )
    return files


def dfvt(root: Path) -> dict[str, Path]:
    """T, S and B with apex's runner and hook; B with soft-NMS."""
    bases(root, "configs", old=True)
    soft = dict(type="soft_nms")
    shapes = {
        "tiny": (48, [1, 1, 2, 1], [3, 6, 12, 24], 4.0, {}),
        "small": (96, [1, 1, 2, 1], [3, 6, 12, 24], 2.0, {}),
        "base": (128, [2, 2, 6, 2], [4, 8, 16, 32], 2.0, dict(rpn=dict(nms=soft))),
    }
    shapes["base"][4]["rcnn"] = dict(nms=soft)
    files = {}
    for size, (width, depths, heads, ratio, test_cfg) in shapes.items():
        backbone = dict(
            _delete_=True,
            **dict(type="DFvT", embed_dim=width, depths=depths, num_heads=heads, window_size=7),
            **dict(mlp_ratio=ratio, qkv_bias=True, qk_scale=None, drop_rate=0.0, ape=False),
            **dict(attn_drop_rate=0.0, drop_path_rate=0.1, patch_norm=True, use_checkpoint=False),
            **dict(out_indices=(0, 1, 2, 3)),
        )
        neck = dict(in_channels=[width * 2**i for i in range(4)])
        files[f"dfvt_{size}"] = write(
            root
            / "configs/DFvT"
            / f"mask_rcnn_dfvt_{size}_patch4_window7_mstrain_adamw_1x_coco.py",
            detector_bases("mask_rcnn", "../"),
            f"{PIPELINE}data = dict(samples_per_gpu=4, workers_per_gpu=0, "
            "train=dict(pipeline=train_pipeline))",
            model=dict(pretrained=None, backbone=backbone, neck=neck, test_cfg=test_cfg),
            optimizer=ADAMW | dict(paramwise_cfg=dict(custom_keys=RULES)),
            lr_config=dict(step=[8, 11]),
            **APEX,
        )
    return files


PROJECTS = {f.__name__: f for f in (kernelwarehouse, recnext, biformer, dfvt)}
SHAPES = [
    *(("kernelwarehouse", name) for name in ("resnet50", "kw1x_resnet50", "kw4x_resnet50")),
    *(("kernelwarehouse", f"{n}mobilenetv2") for n in ("", "kw1x_", "kw4x_")),
    *(("kernelwarehouse", name) for name in ("convnext_t", "kw1x_convnext_t")),
    *(("recnext", f"recnext_{name}") for name in ("m3", "m4", "m5", "a3", "a4", "a5")),
    *(
        ("biformer", f"{d}_biformer_{s}")
        for d in ("maskrcnn", "retinanet")
        for s in ("small", "base")
    ),
    *(("dfvt", f"dfvt_{size}") for size in ("tiny", "small", "base")),
]
