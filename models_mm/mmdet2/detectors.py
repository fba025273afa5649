"""Empty detectors for the checkpoints that are to fill them."""

import re
from collections.abc import Mapping
from pathlib import Path

from mmcv import Config, ConfigDict
from mmdet.datasets import CocoDataset
from mmdet.models import build_backbone, build_detector
from torch import nn

from models_mm.catalogue import catalogue, list_configs, variant_of
from models_mm.checkpoints import load_checkpoint
from models_mm.errors import CheckpointError
from models_mm.mmdet2.configs import get_config, load_config


def detector_for(kind: str, variant: str, entries: Mapping, config: str | None = None) -> nn.Module:
    """The detector that a state dict is of, for its number of classes, with random weights.

    Args:
        kind: such as ``mask_rcnn``.
        variant: of the backbone, such as ``recnext_m3``.
        entries: the state dict.
        config: of the detector, by file or name, instead of a published one.

    Raises:
        CheckpointError: no config is of that detector and variant.
        UserError: there is no such config.
    """
    cfg = read_config(config or config_of(kind, variant))
    cfg.model.backbone.init_cfg = None
    count_classes(cfg.model, entries)
    return build_detector(cfg.model)


def config_of(detector: str, variant: str) -> str:
    """A config of that detector and variant.

    Raises:
        CheckpointError: there is none.
    """
    names = [name for name in list_configs() if name.startswith(f"{detector}_{variant}_fpn_")]
    if not names:
        raise CheckpointError(f"there is no {detector} of {variant}: give --config")
    return names[0]


def read_config(config: str) -> Config:
    """A config by its file or by its name in the catalogue.

    Raises:
        UserError: there is none.
    """
    return load_config(config) if Path(config).suffix else get_config(config)


def count_classes(model: ConfigDict, entries: Mapping) -> None:
    """Set a detector config's number of classes to that of a file."""
    for key, value in entries.items():
        if re.fullmatch(r"roi_head\.bbox_head\.(0\.)?fc_cls\.bias", key):
            classes = len(value) - 1  # and the background
        elif key == "bbox_head.retina_cls.bias":
            classes = len(value) // 9  # anchors per place
        else:
            continue
        for heads in (model.get("bbox_head"), *model.get("roi_head", {}).values()):
            for head in heads if isinstance(heads, list) else [heads]:
                if isinstance(head, dict) and "num_classes" in head:
                    head.num_classes = classes
        return


def load_into_detector(config: str, path: str) -> None:
    """Check that a published detector's file fits its config.

    Raises:
        CheckpointError: it does not.
    """
    cfg = load_config(config).model
    cfg.backbone.init_cfg = None
    load_checkpoint(build_detector(cfg), path)


def mpvit_detector(detector: str, variant: str, ratios: list[float]) -> nn.Module:
    """The detector of a published MPViT config, with ``CLASSES``, for other MLP ratios by stage."""
    model = load_config(f"configs/mpvit/{detector}_mpvit_{variant}_fpn_1x_coco.py").model
    model.backbone.update(mlp_ratio=ratios or None, init_cfg=None)
    built = build_detector(model)
    built.CLASSES = CocoDataset.CLASSES
    return built


def backbone_of_a_row(variant: str) -> nn.Module:
    """The backbone of a published row, such as ``resnet50``, with random weights."""
    entry = next(entry for entry in catalogue() if variant_of(entry.name) == variant)
    settings = load_config(entry.config).model.backbone.to_dict()
    return build_backbone(ConfigDict({**settings, "init_cfg": None}))
