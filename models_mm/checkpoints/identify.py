"""What a checkpoint is: family, variant, kind; and whether it is that completely.

The variant that shares most keys and shapes with a file is built and filled as strictly as for
training: only what fits then is called that variant's. Detectors need a host framework, which
brings a function that builds them.
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

# Detectors by keys of their heads, the more particular first.
DETECTORS = {
    "cascade_mask_rcnn": r"roi_head\.mask_head\.0\..*",
    "mask_rcnn": r"roi_head\.mask_head\..*",
    "faster_rcnn": r"roi_head\.bbox_head\.fc_cls\..*",
    "retinanet": r"bbox_head\.retina_cls\..*",
}
CLASSIFIER = re.compile(r"(head|cls_head|fc|classifier)\.")
LIKE = 0.5  # share of a variant's keys that a file must have to be taken for a damaged one of it
# Variants that a host framework adds: a function that builds each of them, by name.
host_variants: dict[str, Callable[[], nn.Module]] = {}
# (kind of detector, variant, entries, config or None) -> an empty detector for them
BuildDetector = Callable[[str, str, Mapping, str | None], nn.Module]


class Identity(NamedTuple):
    """What a checkpoint is.

    Attributes:
        family: the family's name, e.g. ``recnext``; empty when no known backbone is in it.
        variant: e.g. ``recnext_m3``.
        kind: ``classification`` (a classifier beside the backbone), ``backbone``, ``detectron2`` or
            the detector's name, e.g. ``mask_rcnn``; ``unknown``.
        state: the weights under the names of the model that they fill, or None.
        fault: why it is not completely what it seems to be; empty when it is.
        unchecked: what could not be checked here, and what it takes; empty when all was.
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
    """Find out whose weights a state dict holds.

    Args:
        entries: the state dict.
        path: of its file, for the messages.
        config: of the detector that it must fit, instead of the published one.
        build: builds a detector; without it a detector's neck and heads are not checked.

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
    """A backbone by the name of its variant, with random weights."""
    return (host_variants.get(variant) or REGISTRY[variant])()


@lru_cache
def outline(variant: str) -> nn.Module:
    """A variant with shapes and without values."""
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
    """What of a classification file a variant uses.

    Raises:
        CheckpointError: it does not fit.
    """
    backbone = build_variant(variant)
    published = files_of(backbone)
    given = set(entries)
    fill(backbone, published.adapted(entries, backbone), path, published)
    # What the file may lack starts untrained, and is not made to look trained by converting.
    state = backbone.state_dict()
    return {k: v for k, v in state.items() if k in given or not published.lacks(k)}


def detector_of(entries: dict) -> str:
    """The kind of detector that a state dict is of.

    Raises:
        CheckpointError: none of those here.
    """
    for name, pattern in DETECTORS.items():
        if any(re.fullmatch(pattern, key) for key in entries):
            return name
    raise CheckpointError(f"no {', '.join(DETECTORS)}: give --config for a detector of your own")
