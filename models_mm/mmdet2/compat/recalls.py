"""``eval_recalls`` of mmdet 2.28 with NumPy 1.24 and newer, which refuse ragged arrays.

The fast recall of proposals (``proposal_fast``) and that of VOC keep the overlaps of each image.
"""

import functools

import numpy as np
from mmdet.core.evaluation import recall

from models_mm.mmdet2.compat.replace import replace_everywhere

_eval_recalls = recall.eval_recalls


@functools.wraps(_eval_recalls)
def eval_recalls(
    gts, proposals, proposal_nums=None, iou_thrs=0.5, logger=None, use_legacy_coordinate=False
):
    """Recalls by number of proposals and threshold, as mmdet computes them."""
    numbers, thresholds = recall.set_recall_param(proposal_nums, iou_thrs)
    overlaps = np.empty(len(gts), dtype=object)
    for i, (truth, found) in enumerate(zip(gts, proposals, strict=True)):
        if found.ndim == 2 and found.shape[1] == 5:
            found = found[np.argsort(found[:, 4])[::-1]]
        found = found[: numbers[-1], :4]
        truth = np.zeros((0, 4), np.float32) if truth is None else truth
        overlaps[i] = recall.bbox_overlaps(
            truth, found, use_legacy_coordinate=use_legacy_coordinate
        )
    recalls = recall._recalls(overlaps, numbers, thresholds)
    recall.print_recall_summary(recalls, numbers, thresholds, logger=logger)
    return recalls


def apply() -> None:
    replace_everywhere(_eval_recalls, eval_recalls)
