"""The operators of a detector that PyTorch cannot trace with fixed shapes.

How many boxes survive NMS, and how many RoIs belong to a level, depends on the values. Inside of an
operator that does not matter: its output has the shape of its input. ``layers/onnx_forms.py`` has
what an exporter writes for them.

Shape legend: N batch, C channels or classes, L boxes, R RoIs.
"""

import numpy as np
import torch
import torchvision
from torch import Tensor


@torch.library.custom_op("models_mm::kept_by_nms", mutates_args=())
def kept_by_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, most: int
) -> Tensor:
    """Whether non-maximum suppression keeps a box, for each image and class on its own.

    Args:
        boxes: (N, L, 4).
        scores: (N, C, L).
        iou_threshold: a box is dropped if it overlaps a better one by more.
        score_threshold: a box is dropped if its score is not greater.
        most: number of boxes that are kept of an image and class at most, the best ones.

    Returns:
        bool (N, C, L).
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    # mmcv and ONNX compare with a threshold in float32
    iou_threshold = float(np.float32(iou_threshold))
    for image in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            of_class = scores[image, label]
            able = (of_class > score_threshold).nonzero()[:, 0]
            best = torchvision.ops.nms(boxes[image, able], of_class[able], iou_threshold)
            kept[image, label, able[best[:most]]] = True
    return kept


@kept_by_nms.register_fake
def _(boxes, scores, iou_threshold, score_threshold, most):
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op("models_mm::scores_after_soft_nms", mutates_args=())
def scores_after_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    most: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., arXiv 1704.04503, algorithm 1), for each image on its own.

    The best box is taken, again and again, and the scores of the others fall by their IoU with it.
    Two boxes without area have none: then the score stays (linear), or the box is dropped, as by
    mmcv's comparisons with NaN.

    Args:
        boxes: (N, L, 4).
        scores: (N, L); negative for a row that is no box.
        iou_threshold: of ``linear``, from which on a box loses.
        sigma: of ``gaussian``.
        min_score: a box that falls below it is dropped.
        method: ``linear``, a score is multiplied by 1 - IoU, or ``gaussian``, by
            exp(-IoU^2 / sigma).
        most: number of boxes that are taken of an image at most.

    Returns:
        The scores (N, L) with which the boxes are taken; -1 for the others.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)  # each (N, L)
    areas = (x2 - x1) * (y2 - y1)
    left, taken = scores, torch.full_like(scores, -1)
    image = torch.arange(len(scores), device=scores.device)
    for _ in range(most):
        score, best = left.max(1)
        if not (score >= 0).any():
            break
        of_best = (image, best)
        # an image that has no box left keeps what it has
        taken[of_best] = torch.maximum(score, taken[of_best])
        width = torch.minimum(x2, x2[of_best][:, None]) - torch.maximum(x1, x1[of_best][:, None])
        height = torch.minimum(y2, y2[of_best][:, None]) - torch.maximum(y1, y1[of_best][:, None])
        common = width.clamp(min=0) * height.clamp(min=0)
        union = areas[of_best][:, None] + areas - common
        iou = common / union.clamp(min=1e-30)
        if method == "linear":
            decayed = torch.where(iou >= iou_threshold, left * (1 - iou), left)
        else:
            decayed = torch.where(union > 0, left * (-iou.square() / sigma).exp(), -1.0)
        left = torch.where((left >= 0) & (decayed >= min_score), decayed, -1.0)
        left[of_best] = -1
    return taken


@scores_after_soft_nms.register_fake
def _(boxes, scores, iou_threshold, sigma, min_score, method, most):
    return torch.empty_like(scores)


@torch.library.custom_op("models_mm::roi_align_by_level", mutates_args=())
def roi_align_by_level(
    maps: list[Tensor],
    rois: Tensor,
    level: Tensor,
    size: int,
    scales: list[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign of each RoI in the map of its own level.

    Args:
        maps: one (N, C, H, W) per level.
        rois: (R, 5), image and corners.
        level: int64 (R,), positions in ``maps``.
        size: height and width of the output.
        scales: of each map relative to the coordinates of the RoIs.
        sampling_ratio: of torchvision's ``roi_align``; 0 chooses by the size of the RoI.
        aligned: of torchvision's ``roi_align``.

    Returns:
        (R, C, size, size).
    """
    out = rois.new_empty(len(rois), maps[0].shape[1], size, size)
    for i, (x, scale) in enumerate(zip(maps, scales, strict=True)):
        mine = (level == i).nonzero()[:, 0]
        out[mine] = torchvision.ops.roi_align(x, rois[mine], size, scale, sampling_ratio, aligned)
    return out


@roi_align_by_level.register_fake
def _(maps, rois, level, size, scales, sampling_ratio, aligned):
    return rois.new_empty(rois.shape[0], maps[0].shape[1], size, size)
