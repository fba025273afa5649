"""Forms of configs that the projects' own do not have, and that those who work with them write."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import subprocess
from pathlib import Path

import pytest
import torch
from mmcv import Config
from mmdet.models import build_detector

from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config, pretrained_files
from models_mm.mmdet2.optimization import step_settings
from models_mm.mmdet2.settings import check_settings

from ..documents import ROOT
from .projects import ADAMW, MMDET, write

FOLDERS = ("mask_rcnn/mask_rcnn", "cascade_rcnn/cascade_mask_rcnn", "faster_rcnn/faster_rcnn")
M3 = dict(backbone=dict(type="recnext_m3"), neck=dict(in_channels=[64, 128, 256, 512]))
KW = dict(
    pretrained="path/to/imagenet.pth",
    backbone=dict(type="KW_ResNet", cell_num_ratio=1, sharing_range=("layer", "conv")),
)
# an mmdet of before 2.4, in which runner had another name
OLD = dict(
    data=dict(imgs_per_gpu=1, workers_per_gpu=0),
    total_epochs=12,
    dist_params=dict(backend="nccl"),
    gpu_ids=range(1),
    cudnn_benchmark=True,
    work_dir="./work",
    evaluation=dict(interval=1, metric=["bbox"], save_best="bbox_mAP"),
)


def bash(text: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True)


def built(file: Path) -> Config:
    """Load, check and build as train.py does."""
    cfg = load_config(str(file))
    check_settings(cfg, ("train", "val"), training=True)
    model = cfg.model.copy()
    model.pretrained = None
    with torch.device("meta"):
        build_detector(model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    return cfg


@pytest.mark.parametrize("model", [M3, KW], ids=["recnext", "kernelwarehouse"])
@pytest.mark.parametrize("base", FOLDERS)
def test_other_detectors_of_mmdet(base, model, tmp_path):
    """A config of mmdet's as the base, of which only the backbone is replaced."""
    base = f"../{base}_r50_fpn_1x_coco.py"
    cfg = built(write(tmp_path / "configs/mine/a.py", [base], model=model, optimizer=ADAMW))
    assert cfg.model.backbone.type == model["backbone"]["type"]
    expected = [model["pretrained"]] if "pretrained" in model else []
    assert [f for f in pretrained_files(cfg.model) if "torchvision" not in f] == expected


def test_names_of_older_mmdet(tmp_path):
    base = ["../mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"]
    settings = {**OLD, "model": M3, "optimizer": ADAMW}
    file = write(tmp_path / "configs/mine/a.py", base, **settings)
    cfg = built(file)
    assert cfg.total_epochs == 12 and cfg.data.imgs_per_gpu == 1


def test_settings_of_heads_beside_the_model(tmp_path):
    """``train_cfg`` and ``test_cfg`` as they stood before they moved into the model."""
    cfg = Config.fromfile(str(MMDET.parent / "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"))
    cfg.train_cfg, cfg.test_cfg = cfg.model.pop("train_cfg"), cfg.model.pop("test_cfg")
    cfg.dump(str(tmp_path / "a.py"))
    assert built(tmp_path / "a.py").train_cfg.rcnn.mask_size == 28


def test_what_a_run_has_dumped_is_a_config(tmp_path):
    """The full config in a work dir of theirs, as Python and YAML."""
    base = ["../mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"]
    cfg = load_config(str(write(tmp_path / "configs/mine/a.py", base, model=M3, fp16=dict())))
    cfg.merge_from_dict(dict(gpu_ids=[0], device="cuda", seed=0, auto_resume=False))
    for name in ("run.py", "run.yaml"):
        cfg.dump(str(tmp_path / name))
        assert built(tmp_path / name).model.backbone == cfg.model.backbone


def test_apex_without_half_precision(tmp_path):
    hook = dict(type="DistOptimizerHook", update_interval=2, coalesce=True, use_fp16=False)
    file = write(
        tmp_path / "configs/swin/a.py",
        ["../mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"],
        model=M3,
        runner=dict(type="EpochBasedRunnerAmp"),
        fp16=None,
        optimizer=ADAMW | dict(paramwise_cfg=dict(norm_decay_mult=0.0, bypass_duplicate=True)),
        optimizer_config={"_delete_": True, "grad_clip": dict(max_norm=1), **hook},
    )
    cfg = built(file)
    assert cfg.runner == dict(type="EpochBasedRunner", max_epochs=12) and cfg.fp16 is None
    made = step_settings(cfg)
    assert made.cumulative_iters == 2 and made.grad_clip == dict(max_norm=1)


def test_a_module_that_is_not_found_says_how_it_would_be(tmp_path):
    imports = dict(imports=["their_backbones"], allow_failed_imports=False)
    base = ["../mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"]
    file = write(tmp_path / "configs/mine/a.py", base, custom_imports=imports)
    with pytest.raises(UserError, match="named 'their_backbones'; PYTHONPATH=. in front"):
        load_config(str(file))


def test_slurm_s_script_takes_our_config_for_a_path_of_theirs():
    """Before the job waits for hours; with a path that only the tools know how to read."""
    check = f"root={ROOT}; source {ROOT}/tools/python.sh; config_exists "
    assert bash(check + "configs/mask_rcnn_recnext_m3_fpn_1x_coco.py").returncode == 0
    missing = bash(check + "configs/nowhere.py")
    assert missing.returncode == 1 and "config not found: configs/nowhere.py" in missing.stderr
