"""BiFormer's published recipe, and what its configs promise beyond those of all families."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmdet.core import build_optimizer
from mmdet.models import build_detector

from models_mm.mmdet2.configs import ROOT, load_config

from .test_configs import batch_of, small

DETECTORS = ("mask_rcnn", "faster_rcnn", "retinanet")
PRETRAINED = {"s": "pretrain/biformer_small_best.pth", "b": "pretrain/biformer_base_best.pth"}


def path_of(detector: str, variant: str) -> str:
    return f"configs/biformer/{detector}_biformer_{variant}_fpn_1x_coco.py"


@pytest.mark.parametrize("variant", ["s", "b"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_published_recipe(detector, variant):
    """Line by line; Faster R-CNN follows Mask R-CNN."""
    cfg = load_config(path_of(detector, variant))
    optimizer = dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4)
    if detector != "retinanet":
        optimizer["weight_decay"] = 0.05
        optimizer["paramwise_cfg"] = dict(custom_keys=dict(norm=dict(decay_mult=0.0)))
    assert cfg.optimizer == optimizer
    assert cfg.optimizer_config == dict(grad_clip=None)
    assert cfg.fp16 == dict(loss_scale=512.0)
    assert cfg.lr_config == dict(
        policy="step", warmup="linear", warmup_iters=500, warmup_ratio=0.001, step=[8, 11]
    )
    assert cfg.runner == dict(type="EpochBasedRunner", max_epochs=12)
    assert (cfg.data.samples_per_gpu, cfg.data.workers_per_gpu) == (2, 2)
    assert cfg.model.backbone.drop_path_rate == {"s": 0.2, "b": 0.3}[variant]
    assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint=PRETRAINED[variant])
    assert not cfg.find_unused_parameters
    assert cfg.checkpoint_config == dict(interval=1, max_keep_ckpts=1)
    assert cfg.evaluation.interval == 1
    boxes = "bbox" if detector != "mask_rcnn" else ["bbox", "segm"]
    assert cfg.evaluation.metric == boxes
    steps = {step.type: step for step in cfg.data.train.pipeline}
    assert steps["Resize"].img_scale == (1333, 800) and steps["Resize"].keep_ratio
    assert steps["RandomFlip"].flip_ratio == 0.5 and steps["Pad"].size_divisor == 32
    assert steps["Normalize"].mean == [123.675, 116.28, 103.53]
    assert steps["Normalize"].std == [58.395, 57.12, 57.375] and steps["Normalize"].to_rgb
    assert cfg.log_config.interval == 50
    assert [hook.type for hook in cfg.log_config.hooks] == [
        "TextLoggerHook",
        "TensorboardLoggerHook",
    ]
    assert cfg.custom_hooks == [dict(type="NumClassCheckHook")]


@pytest.mark.parametrize("detector", DETECTORS)
def test_what_decays(detector):
    cfg = load_config(path_of(detector, "s"))
    model = build_detector(cfg.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, cfg.optimizer).param_groups
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay.keys() == set(names.values())
    full = 1e-4 if detector == "retinanet" else 0.05
    for name, value in decay.items():
        assert value == (0 if "norm" in name and detector != "retinanet" else full), name
    assert decay["backbone.downsample_layers.0.1.weight"] == full  # a batch norm


def test_retinanet_has_the_published_keys():
    """As with four outputs and start_level=1, so that published detectors load."""
    cfg = load_config(path_of("retinanet", "s"))
    own = build_detector(cfg.model)
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    cfg.model.neck.update(in_channels=[64, 128, 256, 512], start_level=1)
    published = build_detector(cfg.model)
    assert {k: v.shape for k, v in own.state_dict().items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }
    published.load_state_dict(own.state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = (model.eval().extract_feat(x) for model in (own, published))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("variant", ["s", "b"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_training_step_under_bfloat16(detector, variant, coco_data):
    torch.manual_seed(0)
    cfg = small(path_of(detector, variant), coco_data)
    model = build_detector(cfg.model).train()
    optimizer = build_optimizer(model, cfg.optimizer)
    with torch.autocast("cpu", torch.bfloat16):
        loss = MMDataParallel(model).train_step(batch_of(cfg), optimizer)["loss"]
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    optimizer.step()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in mixed precision")
def test_the_mixed_precision_of_a_gpu_is_left_out_on_a_cpu(run_tool, coco_data, tmp_path):
    done = run_tool(
        *(ROOT / "tools/train.py", path_of("retinanet", "s"), "--work-dir", tmp_path),
        *("--no-validate", "--cfg-options", "model.backbone.init_cfg=None"),
        *("runner.max_epochs=1", "data.train.pipeline.2.img_scale=(64,48)"),
        *("data.samples_per_gpu=8", "data.workers_per_gpu=0", "log_config.interval=1"),
        MMDET_DATASETS=f"{coco_data}/",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "epoch_1.pth").is_file()
