"""A detector with kernel warehouses in two processes, by the real script, as its config stands."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models import build_backbone

ROOT = Path(__file__).resolve().parents[2]
# The published config on small images.
CONFIG = """
_base_ = "{base}"
data = dict(
    workers_per_gpu=0,
    train=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="Resize", img_scale=(64, 48), keep_ratio=True),
            dict(type="RandomFlip", flip_ratio=0.5),
            dict(type="Normalize", mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True),
            dict(type="Pad", size_divisor=32),
            dict(type="DefaultFormatBundle"),
            dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels"]),
        ]
    ),
)
"""


@pytest.mark.slow
def test_two_processes_without_find_unused_parameters(run_tool, coco_data, tmp_path):
    base = ROOT / "configs/kernelwarehouse/faster_rcnn_kw1x_mobilenetv2_fpn_1x_coco.py"
    config = tmp_path / "small.py"
    config.write_text(CONFIG.format(base=base))
    done = run_tool(
        *(ROOT / "dist_train.sh", config, 2, "--work-dir", tmp_path, "--no-validate"),
        *("--cfg-options", "model.backbone.init_cfg=None", "runner.max_epochs=1"),
        *("log_config.interval=1", "lr_config.warmup_iters=1"),
        MMDET_DATASETS=f"{coco_data}/",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [json.loads(x) for x in next(tmp_path.glob("*.log.json")).read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("mode") == "train"]
    assert len(losses) >= 2 and np.isfinite(losses).all()
    checkpoint = torch.load(tmp_path / "latest.pth", weights_only=True)
    cells = [k for k in checkpoint["state_dict"] if "warehouse_manager" in k]
    assert len(cells) == 13
    # what learns has a state of its own in the optimiser; frozen layers and the classifier have not
    groups = checkpoint["optimizer"]["param_groups"]
    assert len(checkpoint["optimizer"]["state"]) == sum(len(g["params"]) for g in groups) - unused()


def unused() -> int:
    """Parameters of the backbone that do not learn: frozen layers and the classifier."""
    backbone = build_backbone(dict(type="kw1x_mobilenetv2", frozen_stages=1))
    return sum(not p.requires_grad for p in backbone.parameters())
