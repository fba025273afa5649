"""Every config under configs/: built, trained one real step, and used for inference.

Found by walking the folder: a new config is tested without a new test.
"""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import Config
from mmcv.parallel import MMDataParallel, collate
from mmdet.core import build_optimizer
from mmdet.datasets import build_dataset
from mmdet.models import build_detector

from models_mm.mmdet2.configs import ROOT, load_config, pretrained_files

from .backbones.golden import LARGE, VARIANTS

MMDET_CONFIGS = Path(__import__("mmdet").__file__).parent / ".mim" / "configs"
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.py")
    if "_base_" not in path.parts
)
LARGE_TYPES = {VARIANTS[name]["type"] for name in LARGE}


def takes_long(path: str) -> bool:
    """Whether a detector belongs to the slow tests: by its size, or with another like it beside it.

    Faster R-CNN is Mask R-CNN without masks; Cascade Mask R-CNN repeats its box head.
    """
    large = any(f"_{name}_fpn_" in path for name in LARGE_TYPES)
    return large or "/mask_" not in path and "/retinanet_" not in path and "dfvt_t" not in path


CASES = [
    pytest.param(path, marks=pytest.mark.slow) if takes_long(path) else path for path in CONFIGS
]
# variants whose published files have another name
PUBLISHED_AS = {"dfvt_t": "DFvT_tiny", "dfvt_s": "DFvT_small", "dfvt_b": "DFvT_base"}


def shrink(value):
    """Replace every image scale of a pipeline by a small one, in place."""
    if isinstance(value, dict):
        for key in value:
            if key == "img_scale":
                many = isinstance(value[key], list) and isinstance(value[key][0], (tuple, list))
                value[key] = [(128, 96)] * len(value[key]) if many else (128, 96)
            else:
                shrink(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            shrink(item)


def small(path: str, data: Path, overrides: dict | None = None) -> Config:
    """A config as it stands, but reading ``data`` at a small scale."""
    cfg = load_config(path, overrides)
    shrink(cfg.data)
    for split, year in (("train", "train2017"), ("val", "val2017"), ("test", "val2017")):
        dataset = cfg.data[split]
        while "dataset" in dataset:
            dataset = dataset.dataset
        dataset.ann_file = str(data / "annotations" / f"instances_{year}.json")
        dataset.img_prefix = str(data / year)
    return cfg


def data_of(path: str, demo_data: Path, coco_data: Path) -> Path:
    return demo_data if path.startswith("configs/demo/") else coco_data


def batch_of(cfg: Config, size: int = 2) -> dict:
    dataset = build_dataset(cfg.data.train)
    return collate([dataset[i] for i in range(size)], samples_per_gpu=size)


@pytest.mark.parametrize("path", CASES)
def test_config_builds_steps_and_infers(path, demo_data, coco_data):
    torch.manual_seed(0)
    cfg = small(path, data_of(path, demo_data, coco_data))
    if "drop_path_rate" in cfg.model.backbone:
        cfg.model.backbone.drop_path_rate = 0.0  # a branch dropped for all images does not learn
    if cfg.model.backbone.type == "KW_MobileNetV2":
        # nor do layers whose input norms with statistics of no training let fade
        cfg.model.backbone.update(norm_eval=False, frozen_stages=-1)
    elif cfg.model.backbone.type == "KW_ResNet":
        cfg.model.backbone.norm_eval = False
    detector = build_detector(cfg.model)
    if hasattr(detector.backbone, "out_channels"):  # mmdet's own state none
        assert tuple(cfg.model.neck.in_channels) == tuple(detector.backbone.out_channels)
    wrapped = MMDataParallel(detector.train())

    optimizer = build_optimizer(detector, cfg.optimizer)
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    loss = wrapped.train_step(batch_of(cfg), optimizer)["loss"]
    assert torch.isfinite(loss)
    loss.backward()
    trained = [name for name, p in detector.named_parameters() if p.requires_grad]
    without = [name for name in trained if detector.get_parameter(name).grad is None]
    assert cfg.get("find_unused_parameters") or not without
    optimizer.step()
    unchanged = [n for n in trained if torch.equal(before[n], detector.get_parameter(n))]
    assert not set(unchanged) - set(without) - zero_initialised(before, unchanged)
    assert any(name.startswith("backbone") for name in set(trained) - set(unchanged))

    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    batch = collate([dataset[0]], samples_per_gpu=1)
    with torch.no_grad():
        result = MMDataParallel(detector.eval())(return_loss=False, rescale=True, **batch)[0]
    boxes = result[0] if detector.with_mask else result
    assert len(boxes) == len(dataset.CLASSES)
    assert all(np.isfinite(of_class).all() and of_class.shape[1] == 5 for of_class in boxes)


def zero_initialised(before: dict, names) -> set[str]:
    """Parameters that start at zero and have no gradient yet (a bias of an unmatched class)."""
    return {name for name in names if not before[name].any()}


@pytest.mark.parametrize("path", CONFIGS)
def test_file_name_says_what_the_config_is(path):
    if path.startswith("configs/demo/"):
        pytest.skip("the demo is no published model")
    family, name = Path(path).parts[1], Path(path).stem
    cfg = load_config(path)
    detectors = {
        "MaskRCNN": "mask_rcnn",
        "FasterRCNN": "faster_rcnn",
        "RetinaNet": "retinanet",
        "CascadeRCNN": "cascade_mask_rcnn",
    }
    assert name.startswith(detectors[cfg.model.type] + "_")
    assert name.endswith("_coco")
    variant = name.removeprefix(detectors[cfg.model.type] + "_").partition("_fpn_")[0]
    assert variant.partition("_")[0] == family or family == "kernelwarehouse"
    for checkpoint in pretrained_files(cfg.model):
        assert checkpoint.startswith(f"pretrain/{PUBLISHED_AS.get(variant, variant)}")


@pytest.mark.parametrize(
    ("base", "theirs"),
    [
        ("mask_rcnn_fpn", "mask_rcnn_r50_fpn"),
        ("faster_rcnn_fpn", "faster_rcnn_r50_fpn"),
        ("retinanet_fpn", "retinanet_r50_fpn"),
        ("cascade_mask_rcnn_fpn", "cascade_mask_rcnn_r50_fpn"),
    ],
)
def test_detectors_are_mmdets(base, theirs):
    """Heads, losses, training and test settings equal those of mmdet's own base configs."""
    ours = Config.fromfile(str(ROOT / f"configs/_base_/models/{base}.py")).model
    model = Config.fromfile(str(MMDET_CONFIGS / f"_base_/models/{theirs}.py")).model
    del model["backbone"], model.neck["in_channels"]
    assert ours == model


def test_published_recipe_of_recnext():
    """The recipe of the published rows, line by line."""
    for variant in ("m3", "m4", "m5", "a3", "a4", "a5"):
        cfg = load_config(f"configs/recnext/mask_rcnn_recnext_{variant}_fpn_1x_coco.py")
        assert cfg.optimizer == dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05)
        assert cfg.optimizer_config == dict(grad_clip=None)
        assert cfg.lr_config == dict(
            policy="step", warmup="linear", warmup_iters=500, warmup_ratio=1e-6, step=[8, 11]
        )
        assert cfg.runner == dict(type="EpochBasedRunner", max_epochs=12)
        assert (cfg.data.samples_per_gpu, cfg.data.workers_per_gpu) == (2, 2)
        assert cfg.model.backbone.norm_cfg.type == "SyncBN"
        assert not cfg.model.backbone.get("norm_eval") and "fp16" not in cfg
        assert not cfg.find_unused_parameters
        assert cfg.checkpoint_config.interval == cfg.evaluation.interval == 1
        assert cfg.evaluation.metric == ["bbox", "segm"]
        steps = {step.type: step for step in cfg.data.train.pipeline}
        assert steps["Resize"].img_scale == (1333, 800) and steps["Resize"].keep_ratio
        assert steps["RandomFlip"].flip_ratio == 0.5 and steps["Pad"].size_divisor == 32
        assert steps["Normalize"].mean == [123.675, 116.28, 103.53]
        assert steps["Normalize"].std == [58.395, 57.12, 57.375] and steps["Normalize"].to_rgb
        assert cfg.log_config.interval == 50
        assert cfg.custom_hooks == [dict(type="NumClassCheckHook")]
