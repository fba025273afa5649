"""Find out what a checkpoint is (family, variant, kind), and whether it is complete.

The variant that shares most keys and shapes with a file is built, and the file is loaded into it
as strictly as for training. Detectors need a host framework, which provides a function that builds
them.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from models_mm.backbones import REGISTRY, VARIANTS
from models_mm.checkpoints.loading import EXACT, below, fill, is_detector, with_own_backbone
from models_mm.checkpoints.published import files_of
from models_mm.errors import CheckpointError

# Detectors by keys of their heads, the most specific first.
DETECTORS = {
    "cascade_mask_rcnn": r"roi_head\.mask_head\.0\..*",
    "mask_rcnn": r"roi_head\.mask_head\..*",
    "faster_rcnn": r"roi_head\.bbox_head\.fc_cls\..*",
    "retinanet": r"bbox_head\.retina_cls\..*",
}
CLASSIFIER = re.compile(r"(head|cls_head|fc|classifier)\.")
LIKE = 0.5  # a file with this share of a variant's keys is taken for a damaged file of it
# Variants that a host framework adds, by name: functions that build them.
host_variants: dict[str, Callable[[], nn.Module]] = {}
# (kind of detector, variant, entries, config or None) -> an empty detector for them
BuildDetector = Callable[[str, str, Mapping, str | None], nn.Module]


class Identity(NamedTuple):
    """What a checkpoint is.

    Attributes:
        family: the family's name, e.g. ``recnext``; empty if the file has no known backbone.
        variant: e.g. ``recnext_m3``.
        kind: ``classification`` (a classifier beside the backbone), ``backbone``, ``detectron2`` or
            the detector's name, e.g. ``mask_rcnn``; ``unknown``.
        state: the weights under the names of the model that they fill, or None.
        fault: why it is not complete; empty if it is.
        unchecked: what could not be checked, and what the check needs; empty if all was checked.
    """

    family: str
    variant: str
    kind: str
    state: dict | None
    fault: str
    unchecked: str = ""


def identify(
    entries: dict, path: str, config: str | None = None, build: BuildDetector | None = None
) -> Identity:
    """Find out which model a state dict belongs to.

    Args:
        entries: the state dict.
        path: the path of its file, for messages.
        config: the config of the detector that it must fit, instead of the published one.
        build: builds a detector; without it, the neck and heads of a detector are not checked.

    Raises:
        UserError: the config does not exist.
    """
    if any(key.startswith("backbone.bottom_up.") for key in entries):
        return Identity("mpvit", "", "detectron2", None, "")
    detector = is_detector(entries)
    inner = below(entries, "backbone.", path) if detector else entries
    variant, share = likeliest(inner)
    if share < LIKE:
        return Identity("", "", "unknown", None, "no known backbone has these keys and shapes")
    family = files_of(outline(variant)).name
    kind, state, fault, unchecked = "backbone", None, "", ""
    try:
        if not detector:
            state = backbone_state(entries, path, variant)
            kind = "classification" if any(map(CLASSIFIER.match, entries)) else "backbone"
        else:
            kind = detector_of(entries)
            if build is None:
                unchecked = "neck and heads: this needs MMDetection (`models_mm setup`)"
            else:
                model = build(kind, variant, entries, config)
                fill(model, with_own_backbone(entries, model), path, EXACT)
                state = model.state_dict()
    except CheckpointError as error:
        fault = str(error)
    return Identity(family, variant, kind, state, fault, unchecked)


def build_variant(variant: str) -> nn.Module:
    """Build a variant with random weights."""
    return (host_variants.get(variant) or REGISTRY[variant])()


@lru_cache
def outline(variant: str) -> nn.Module:
    """Build a variant on the meta device: its tensors have shapes and no values."""
    with torch.device("meta"):
        return build_variant(variant)


def likeliest(entries: dict) -> tuple[str, float]:
    """The variant that shares most keys and shapes with a state dict, and the share of its keys."""

    def share(variant: str) -> float:
        model = outline(variant)
        rename = files_of(model).rename
        found = entries if rename is None else {**entries, **rename(entries)}
        own = model.state_dict()
        same = [k in found and found[k].shape == value.shape for k, value in own.items()]
        return sum(same) / len(own)

    names = [*VARIANTS, *host_variants]
    return max(((name, share(name)) for name in names), key=lambda item: item[1])


def backbone_state(entries: dict, path: str, variant: str) -> dict:
    """The entries of a classification file that a variant uses.

    Raises:
        CheckpointError: it does not fit.
    """
    backbone = build_variant(variant)
    published = files_of(backbone)
    given = set(entries)
    fill(backbone, published.adapted(entries, backbone), path, published)
    # Weights that the file may lack stay random; conversion must not make them look trained.
    state = backbone.state_dict()
    return {k: v for k, v in state.items() if k in given or not published.lacks(k)}


def detector_of(entries: dict) -> str:
    """The kind of the detector that a state dict belongs to.

    Raises:
        CheckpointError: it is none of the known kinds.
    """
    for name, pattern in DETECTORS.items():
        if any(re.fullmatch(pattern, key) for key in entries):
            return name
    raise CheckpointError(f"no {', '.join(DETECTORS)}: give --config for a detector of your own")
