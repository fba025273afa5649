"""Conversion of detectron2's MPViT checkpoints to MMDetection's."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from models_mm.backbones import REGISTRY, mpvit
from models_mm.checkpoints import detectron2, read_checkpoint
from models_mm.checkpoints.loading import EXACT, fill, unwrap
from models_mm.errors import CheckpointError
from models_mm.version import __version__

# (kind of detector, variant, MLP ratios by stage) -> an empty detector, with its CLASSES
BuildDetector = Callable[[str, str, list[float]], nn.Module]


class Conversion(NamedTuple):
    """A converted checkpoint and a report about it.

    Attributes:
        checkpoint: ``meta`` and ``state_dict``.
        dropped: keys of the input that are not used.
        permuted: keys of the output whose anchors were reordered.
        remarks: what the user should know.
    """

    checkpoint: dict
    dropped: list[str]
    permuted: list[str]
    remarks: list[str]


def convert_mpvit(path: str | os.PathLike, build: BuildDetector | None = None) -> Conversion:
    """Convert a backbone, RetinaNet or Mask R-CNN of the published MPViT.

    Every key of the file is mapped or known to be unused, and every key of the model is filled.

    Args:
        path: the file.
        build: builds the detectors; backbones do not need it.

    Raises:
        CheckpointError: the file cannot be read, is already converted, or is none of these models;
            or it is a detector and ``build`` is missing.
    """
    content = read_checkpoint(path)
    meta = content.get("meta")
    if isinstance(meta, dict) and "converted_from" in meta:
        raise CheckpointError(f"{path} is converted already (from {meta['converted_from']})")
    try:
        return _convert(unwrap(content, str(path)), Path(path), build)
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error


def _convert(entries: dict, path: Path, build: BuildDetector | None) -> Conversion:
    detector = detectron2.detector_of(entries)
    named = {mpvit.bare(key): value for key, value in entries.items()}
    variant, ratios = variant_of(named), mpvit.mlp_ratios(named)
    if detector is None:
        model = REGISTRY[f"mpvit_{variant}"](mlp_ratio=ratios or None)
    elif build is None:
        raise CheckpointError("converting a detector needs MMDetection (`models_mm setup`)")
    else:
        model = build(detector, variant, ratios)
    state, dropped, permuted = renamed(entries, detector, model.state_dict().keys())
    fill(model, state, str(path), EXACT)

    remarks = detectron2.wrong_pixels(entries)
    usual = mpvit.VARIANTS[variant].mlp_ratio
    if ratios != [usual] * 4:
        values = ",".join(map(str, ratios))
        remarks.append(
            f"its MLP ratios are {ratios} and the config's is {usual}: add "
            f"--cfg-options model.backbone.mlp_ratio=[{values}]"
        )
    meta = dict(
        converted_from=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        arch=variant,
        detector=detector,
        mlp_ratio=ratios,
        converter_version=__version__,
    )
    if detector is not None:
        meta["CLASSES"] = model.CLASSES
    return Conversion(dict(meta=meta, state_dict=model.state_dict()), dropped, permuted, remarks)


def variant_of(entries: dict) -> str:
    """Find the variant from the widths and layers of a backbone's entries.

    Raises:
        CheckpointError: it is not a published variant.
    """
    outputs = [f"mhca_stages.{i}.aggregate.conv.weight" for i in range(3)]
    widths = [len(entries[key]) for key in ("stem.1.conv.weight", *outputs) if key in entries]
    layers = [
        len({match[1] for key in entries if (match := re.match(pattern, key))})
        for pattern in (rf"mhca_stages\.{i}\.mhca_blks\.0\.MHCA_layers\.(\d+)\." for i in range(4))
    ]
    for name, variant in mpvit.VARIANTS.items():
        if (list(variant.widths), list(variant.layers)) == (widths, layers):
            return name
    raise CheckpointError(
        f"no published MPViT: stages of widths {widths} and {layers} layers, where these have "
        + ", ".join(
            f"{list(variant.widths)} and {list(variant.layers)} ({name})"
            for name, variant in mpvit.VARIANTS.items()
        )
    )


def renamed(entries: dict, detector: str | None, known) -> tuple[dict, list[str], list[str]]:
    """Rename the entries to those of the model; also returns the unused and the permuted keys.

    Raises:
        CheckpointError: a key is unknown.
    """
    inner = "backbone." if detector else ""
    state, dropped, permuted, unknown = {}, [], [], []
    for key, value in entries.items():
        bare = mpvit.bare(key)
        target = inner + bare
        if target not in known:
            if detectron2.IGNORED.fullmatch(key) or mpvit.CLASSIFIER_KEYS.fullmatch(bare):
                dropped.append(key)
                continue
            target = detectron2.renamed(key, detector) if detector else None
        if target is None or target in state:
            unknown.append(key)
            continue
        if detectron2.ANCHORED.fullmatch(key):
            value = detectron2.with_anchors_by_ratio(value)
            permuted.append(target)
        state[target] = value
    if unknown:
        names = ", ".join(unknown[:4]) + (f" and {len(unknown) - 4} more" if unknown[4:] else "")
        raise CheckpointError(f"{len(unknown)} keys of no known use: {names}")
    return state, dropped, permuted
