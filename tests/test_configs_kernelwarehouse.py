"""KernelWarehouse's published recipe, line by line."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import pytest
from mmdet.core import build_optimizer
from mmdet.models import build_detector

from models_mm.mmdet2.configs import ROOT, load_config

RESNETS = ("resnet50", "kw1x_resnet50", "kw4x_resnet50")
MOBILENETS = ("mobilenetv2", "kw1x_mobilenetv2", "kw4x_mobilenetv2")
CONVNEXTS = ("convnext_t", "kw1x_convnext_t")
SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
ROWS = [
    (detector, variant)
    for detector in ("mask_rcnn", "faster_rcnn", "cascade_mask_rcnn", "retinanet")
    for variant in RESNETS + MOBILENETS + CONVNEXTS
]
RULE_A = {
    "absolute_pos_embed": dict(decay_mult=0.0),
    "relative_position_bias_table": dict(decay_mult=0.0),
    "norm": dict(decay_mult=0.0),
}


def config(detector: str, variant: str):
    return load_config(f"configs/kernelwarehouse/{detector}_{variant}_fpn_1x_coco.py")


def test_every_row_has_a_config():
    names = {path.stem for path in (ROOT / "configs/kernelwarehouse").glob("*.py")}
    assert names == {f"{detector}_{variant}_fpn_1x_coco" for detector, variant in ROWS}


@pytest.mark.parametrize(("detector", "variant"), ROWS)
def test_schedule(detector, variant):
    cfg = config(detector, variant)
    optimizer = dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    if variant in CONVNEXTS:
        optimizer["constructor"] = "LearningRateDecayOptimizerConstructor"
        optimizer["paramwise_cfg"] = dict(decay_rate=0.95, decay_type="layer_wise", num_layers=6)
    else:
        optimizer["paramwise_cfg"] = dict(custom_keys=RULE_A)
    assert cfg.optimizer == optimizer
    assert cfg.optimizer_config == dict(grad_clip=None) and "fp16" not in cfg
    steps = [9, 11] if variant in CONVNEXTS else [8, 11]
    assert cfg.lr_config == dict(
        policy="step", warmup="linear", warmup_iters=500, warmup_ratio=0.001, step=steps
    )
    assert cfg.runner == dict(type="EpochBasedRunner", max_epochs=12)
    assert cfg.data.samples_per_gpu == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert not cfg.find_unused_parameters
    assert cfg.evaluation.metric == (["bbox", "segm"] if "mask" in detector else "bbox")


@pytest.mark.parametrize(("detector", "variant"), ROWS)
def test_backbone(detector, variant):
    backbone = dict(config(detector, variant).model.backbone)
    checkpoint = f"pretrain/{variant}_imagenet.pth"
    assert backbone.pop("init_cfg") == dict(type="Pretrained", checkpoint=checkpoint)
    expected = dict(cell_num_ratio=int(variant[2])) if variant.startswith("kw") else {}
    if variant in CONVNEXTS:
        expected |= dict(arch="t", drop_path_rate=0.4, layer_scale_init_value=1.0)
        expected["type"] = "KW_ConvNeXt" if expected.get("cell_num_ratio") else "ConvNeXt"
    else:
        expected |= dict(norm_eval=True, frozen_stages=1)
    if variant.startswith("kw"):
        expected["sharing_range"] = {
            "kw1x_resnet50": ("layer", "conv"),
            "kw4x_resnet50": ("layer", "conv"),
            "kw1x_mobilenetv2": ("layer", "pwconv"),
            "kw4x_mobilenetv2": "layer",
            "kw1x_convnext_t": ("layer", "pwconv"),
        }[variant]
    if variant in RESNETS:
        expected |= dict(type="KW_ResNet", depth=50, drop_path_rate=0.1)
        if variant == "resnet50":
            expected |= dict(type="ResNet", style="pytorch")
            del expected["drop_path_rate"]
    if variant in MOBILENETS:
        expected |= dict(type="KW_MobileNetV2", out_indices=(1, 2, 3, 4))
    if variant == "mobilenetv2":  # mmdet counts other stages; these are the same layers
        expected |= dict(type="MobileNetV2", out_indices=(1, 2, 4, 7), frozen_stages=2)
    if detector == "retinanet":  # does without the first map
        expected["out_indices"] = expected.get("out_indices", (0, 1, 2, 3))[1:]
    assert backbone == expected


@pytest.mark.parametrize("variant", ["kw4x_resnet50", "convnext_t"])
def test_images(variant):
    cfg = config("mask_rcnn", variant)
    scales = [(side, 1333) for side in SHORT_SIDES]
    resize = dict(type="Resize", multiscale_mode="value", keep_ratio=True)
    crop = dict(
        type="RandomCrop",
        crop_type="absolute_range",
        crop_size=(384, 600),
        allow_negative_crop=True,
    )
    steps = {step.type: step for step in cfg.data.train.pipeline}
    assert steps["AutoAugment"].policies == [
        [dict(resize, img_scale=scales)],
        [
            dict(resize, img_scale=[(400, 1333), (500, 1333), (600, 1333)]),
            crop,
            dict(resize, img_scale=scales, override=True),
        ],
    ]
    assert steps["RandomFlip"].flip_ratio == 0.5 and steps["Pad"].size_divisor == 32
    assert steps["Normalize"].mean == [123.675, 116.28, 103.53] and steps["Normalize"].to_rgb
    assert steps["Normalize"].std == [58.395, 57.12, 57.375]
    assert cfg.data.test.pipeline[1].img_scale == (1333, 800)
    assert cfg.model.test_cfg.rpn.nms == dict(type="nms", iou_threshold=0.7)
    assert cfg.model.test_cfg.rcnn.nms == dict(type="nms", iou_threshold=0.5)


@pytest.mark.parametrize("variant", ["kw1x_mobilenetv2", "kw1x_resnet50"])
def test_only_the_norms_of_attentions_do_not_decay(variant):
    cfg = config("faster_rcnn", variant)
    cfg.model.backbone.frozen_stages = -1
    detector = build_detector(cfg.model)
    groups = build_optimizer(detector, cfg.optimizer).param_groups
    decay = {id(group["params"][0]): group["weight_decay"] for group in groups}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            free = name.endswith(("attention.norm1.weight", "attention.norm1.bias"))
            assert decay[id(parameter)] == (0 if free else 0.05), name


def test_frozen_layers_are_the_same_with_and_without_warehouses():
    def frozen(variant):
        backbone = build_detector(config("faster_rcnn", variant).model).backbone
        backbone.train()  # mmdet's own return nothing
        return {m.num_features for m in norms(backbone) if not m.weight.requires_grad}, sum(
            not m.weight.requires_grad for m in norms(backbone)
        )

    def norms(backbone):
        return [m for m in backbone.modules() if type(m).__name__ == "BatchNorm2d"]

    assert frozen("mobilenetv2") == frozen("kw1x_mobilenetv2")
    assert frozen("resnet50") == frozen("kw1x_resnet50")


@pytest.mark.parametrize("variant", CONVNEXTS)
def test_rates_fall_towards_the_input(variant):
    cfg = config("faster_rcnn", variant)
    detector = build_detector(cfg.model)
    groups = build_optimizer(detector, cfg.optimizer).param_groups
    of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    factors = {
        "backbone.downsample_layers.0.": 0.69834,
        "backbone.stages.0.": 0.73509,
        "backbone.downsample_layers.1.": 0.77378,
        "backbone.stages.1.": 0.77378,
        "backbone.downsample_layers.2.": 0.81451,
        **{f"backbone.stages.2.{block}.": 0.81451 for block in (0, 1, 2)},
        **{f"backbone.stages.2.{block}.": 0.85738 for block in (3, 4, 5)},
        **{f"backbone.stages.2.{block}.": 0.90250 for block in (6, 7, 8)},
        "backbone.downsample_layers.3.": 0.95,
        "backbone.stages.3.": 0.95,
    }
    seen = set()
    for name, parameter in detector.named_parameters():
        rate, decay = of[id(parameter)]
        prefix = next((prefix for prefix in factors if name.startswith(prefix)), None)
        assert rate == pytest.approx(1e-4 * factors.get(prefix, 1), rel=1e-4), name
        assert decay == (0 if parameter.dim() == 1 or name.endswith(".bias") else 0.05), name
        seen.add(prefix)
    assert seen == {*factors, None}
    decays = {name: of[id(p)][1] for name, p in detector.backbone.named_parameters()}
    assert decays["stages.0.0.gamma"] == (0.05 if variant.startswith("kw") else 0)
    if variant.startswith("kw"):
        assert decays["warehouse_manager.weights.0"] == 0.05
