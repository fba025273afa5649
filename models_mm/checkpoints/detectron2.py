"""The names of detectron2's RetinaNet and Mask R-CNN with FPN, and MMDetection's names for them.

Both frameworks have the same layout of weights, except for RetinaNet's anchors: detectron2 numbers
them by size and then ratio, MMDetection (``scale_major=True``) by ratio and then size.
"""

import re

from torch import Tensor

from models_mm.errors import CheckpointError

SIZES, RATIOS = 3, 3  # of RetinaNet's anchors
ANCHORED = re.compile(r"head\.(cls_score|bbox_pred)\.(weight|bias)")
IGNORED = re.compile(r"pixel_(mean|std)|(proposal_generator\.)?anchor_generator\.cell_anchors\.\d")
PIXELS = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}

# MMDetection's names, without `.weight` and `.bias`, of detectron2's.
RETINANET = {
    **{f"backbone.fpn_lateral{i + 3}": f"neck.lateral_convs.{i}.conv" for i in range(3)},
    **{f"backbone.fpn_output{i + 3}": f"neck.fpn_convs.{i}.conv" for i in range(3)},
    "backbone.top_block.p6": "neck.fpn_convs.3.conv",
    "backbone.top_block.p7": "neck.fpn_convs.4.conv",
    # there is a ReLU between two convolutions
    **{f"head.cls_subnet.{2 * i}": f"bbox_head.cls_convs.{i}.conv" for i in range(4)},
    **{f"head.bbox_subnet.{2 * i}": f"bbox_head.reg_convs.{i}.conv" for i in range(4)},
    "head.cls_score": "bbox_head.retina_cls",
    "head.bbox_pred": "bbox_head.retina_reg",
}
MASK_RCNN = {
    **{f"backbone.fpn_lateral{i + 2}": f"neck.lateral_convs.{i}.conv" for i in range(4)},
    **{f"backbone.fpn_output{i + 2}": f"neck.fpn_convs.{i}.conv" for i in range(4)},
    "proposal_generator.rpn_head.conv": "rpn_head.rpn_conv",
    "proposal_generator.rpn_head.objectness_logits": "rpn_head.rpn_cls",
    "proposal_generator.rpn_head.anchor_deltas": "rpn_head.rpn_reg",
    "roi_heads.box_head.fc1": "roi_head.bbox_head.shared_fcs.0",
    "roi_heads.box_head.fc2": "roi_head.bbox_head.shared_fcs.1",
    "roi_heads.box_predictor.cls_score": "roi_head.bbox_head.fc_cls",
    "roi_heads.box_predictor.bbox_pred": "roi_head.bbox_head.fc_reg",
    **{
        f"roi_heads.mask_head.mask_fcn{i + 1}": f"roi_head.mask_head.convs.{i}.conv"
        for i in range(4)
    },
    "roi_heads.mask_head.deconv": "roi_head.mask_head.upsample",
    "roi_heads.mask_head.predictor": "roi_head.mask_head.conv_logits",
}
DETECTORS = {"retinanet": RETINANET, "mask_rcnn": MASK_RCNN}


def detector_of(entries: dict) -> str | None:
    """Which of ``DETECTORS`` a state dict is; None for a backbone alone."""
    for key in entries:
        if key.startswith("head."):
            return "retinanet"
        if key.startswith(("roi_heads.", "proposal_generator.")):
            return "mask_rcnn"
    return None


def renamed(key: str, detector: str) -> str | None:
    """MMDetection's name for a key of a neck or head; None for any other key."""
    name, _, kind = key.rpartition(".")
    known = DETECTORS[detector].get(name)
    return f"{known}.{kind}" if known and kind in ("weight", "bias") else None


def with_anchors_by_ratio(value: Tensor) -> Tensor:
    """Reorder channels (9 * k, ...) of RetinaNet's predictions to MMDetection's order of anchors.

    Raises:
        CheckpointError: the number of channels is no multiple of nine anchors.
    """
    if len(value) % (SIZES * RATIOS):
        raise CheckpointError(f"{len(value)} channels are not those of {SIZES * RATIOS} anchors")
    return value.unflatten(0, (SIZES, RATIOS, -1)).transpose(0, 1).flatten(0, 2)


def wrong_pixels(entries: dict) -> list[str]:
    """Pixel statistics of a file that are not ImageNet's in RGB order, which the configs use."""
    return [
        f"{key} {entries[key].flatten().tolist()} instead of {values}"
        for key, values in PIXELS.items()
        if key in entries
        and not (
            entries[key].numel() == 3
            and (entries[key].flatten() - entries[key].new_tensor(values)).abs().max() < 1e-2
        )
    ]
