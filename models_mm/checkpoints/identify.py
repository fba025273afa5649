"""What a checkpoint is: family, variant, kind; and whether it is that completely.

Variants are those of the catalogue. The one that shares most keys and shapes with a file is built
and filled as strictly as for training: only what fits then is called that variant's.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from mmcv import Config, ConfigDict
from mmdet.models import build_backbone, build_detector
from torch import nn

from models_mm.catalogue import catalogue, get_config, list_configs
from models_mm.checkpoints import family_of, kernelwarehouse
from models_mm.checkpoints.loading import EXACT, below, fill, is_detector, with_own_backbone
from models_mm.errors import CheckpointError
from models_mm.mmdet2.configs import load_config

# Detectors by keys of their heads, the more particular first.
DETECTORS = {
    "cascade_mask_rcnn": r"roi_head\.mask_head\.0\..*",
    "mask_rcnn": r"roi_head\.mask_head\..*",
    "faster_rcnn": r"roi_head\.bbox_head\.fc_cls\..*",
    "retinanet": r"bbox_head\.retina_cls\..*",
}
CLASSIFIER = re.compile(r"(head|cls_head|fc|classifier)\.")
LIKE = 0.5  # share of a variant's keys that a file must have to be taken for a damaged one of it


class Identity(NamedTuple):
    """What a checkpoint is.

    Attributes:
        family: family's name, e.g. ``recnext``; empty when no known backbone is in it.
        variant: as in the configs' names, e.g. ``recnext_m3``.
        kind: ``classification`` (a classifier beside the backbone), ``backbone``, ``detectron2`` or
            the detector's name, e.g. ``mask_rcnn``; ``unknown``.
        state: the weights under the names of the model that they fill, or None.
        fault: why it is not completely what it seems to be; empty when it is.
    """

    family: str
    variant: str
    kind: str
    state: dict | None
    fault: str


def identify(entries: dict, path: str, config: str | None = None) -> Identity:
    """Find out whose weights a state dict holds.

    Args:
        entries: the state dict.
        path: of its file, for the messages.
        config: detector that it must fit, instead of the catalogue's.

    Raises:
        UserError: there is no such config.
    """
    if any(key.startswith("backbone.bottom_up.") for key in entries):
        return Identity("mpvit", "", "detectron2", None, "")
    detector = is_detector(entries)
    inner = below(entries, "backbone.", path) if detector else entries
    variant, share = likeliest(inner)
    if share < LIKE:
        return Identity("", "", "unknown", None, "no known backbone has these keys and shapes")
    family = family_of(outline(variant)).name
    kind, state, fault = "backbone", None, ""
    try:
        if detector:
            kind = detector_of(entries)
            state = detector_state(entries, path, config or config_of(kind, variant))
        else:
            state = backbone_state(entries, path, variant)
            kind = "classification" if any(map(CLASSIFIER.match, entries)) else "backbone"
    except CheckpointError as error:
        fault = str(error)
    return Identity(family, variant, kind, state, fault)


@lru_cache
def backbones() -> dict[str, dict]:
    """Backbone config of each variant in the catalogue, without initial weights."""
    found = {}
    for entry in catalogue():
        name = re.sub(r"^(cascade_)?(mask|faster)_rcnn_|^retinanet_", "", entry.name)
        settings = load_config(entry.config).model.backbone.to_dict()
        found.setdefault(name.partition("_fpn_")[0], ConfigDict({**settings, "init_cfg": None}))
    return found


@lru_cache
def outline(variant: str) -> nn.Module:
    """A variant with shapes and without values."""
    with torch.device("meta"):
        return build_backbone(backbones()[variant])


def likeliest(entries: dict) -> tuple[str, float]:
    """The variant that shares most keys and shapes with a state dict, and the share of its keys."""
    # mmdet's MobileNetV2, which stands for the published one, has names of its own
    entries = {**entries, **kernelwarehouse.mobilenetv2_names(entries)}
    found = {key: tuple(value.shape) for key, value in entries.items()}

    def share(variant: str) -> float:
        own = outline(variant).state_dict()
        return sum(found.get(key) == tuple(value.shape) for key, value in own.items()) / len(own)

    return max(((variant, share(variant)) for variant in backbones()), key=lambda item: item[1])


def backbone_state(entries: dict, path: str, variant: str) -> dict:
    """What of a classification file a variant uses.

    Raises:
        CheckpointError: it does not fit.
    """
    backbone = build_backbone(backbones()[variant])
    family = family_of(backbone)
    given = set(entries)
    adapted = entries if family.adapt is None else family.adapt(entries, backbone)
    fill(backbone, adapted, path, family)
    # What the file may lack starts untrained, and is not made to look trained by converting.
    state = backbone.state_dict()
    return {k: v for k, v in state.items() if k in given or not family.lacks(k)}


def detector_of(entries: dict) -> str:
    """The kind of detector that a state dict is of.

    Raises:
        CheckpointError: none of those here.
    """
    for name, pattern in DETECTORS.items():
        if any(re.fullmatch(pattern, key) for key in entries):
            return name
    raise CheckpointError(f"no {', '.join(DETECTORS)}: give --config for a detector of your own")


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


def detector_state(entries: dict, path: str, config: str) -> dict:
    """The state of a config's detector, for the file's number of classes, filled with it.

    Raises:
        CheckpointError: it does not fit.
        UserError: there is no such config.
    """
    cfg = read_config(config)
    cfg.model.backbone.init_cfg = None
    _count_classes(cfg.model, entries)
    model = build_detector(cfg.model)
    fill(model, with_own_backbone(entries, model), path, EXACT)
    return model.state_dict()


def _count_classes(model: ConfigDict, entries: dict) -> None:
    """Set a detector config's number of classes to that of a file."""
    for key, value in entries.items():
        if re.fullmatch(r"roi_head\.bbox_head\.(0\.)?fc_cls\.bias", key):
            classes = len(value) - 1  # and the background
        elif key == "bbox_head.retina_cls.bias":
            classes = len(value) // 9  # anchors of a place
        else:
            continue
        for heads in (model.get("bbox_head"), *model.get("roi_head", {}).values()):
            for head in heads if isinstance(heads, list) else [heads]:
                if isinstance(head, dict) and "num_classes" in head:
                    head.num_classes = classes
        return
