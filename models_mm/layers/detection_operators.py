"""The two operators of a detector that PyTorch cannot trace with fixed shapes, and their ONNX form.

How many boxes survive NMS, and how many RoIs belong to a level, depends on the values. Inside of an
operator that does not matter: its output has the shape of its input. The ONNX forms need only
operators of ONNX's own set.

Shape legend: N batch, C channels or classes, L boxes, R RoIs, S pairs or triples of indices.
"""

import numpy as np
import torch
import torchvision
from torch import Tensor

ROI_ROWS = 5  # image, left, top, right, bottom


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


def onnx_forms() -> dict:
    """The ONNX forms of the operators, for ``torch.onnx.export(custom_translation_table=...)``."""
    from onnxscript import opset18 as op  # only exporting needs it

    def nms(boxes, scores, iou_threshold: float, score_threshold: float, most: int):
        chosen = op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_ints=[most]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]),
        )  # (S, 3): image, class, box
        none = op.Expand(op.Constant(value_int=0), op.Shape(scores))
        ones = op.Expand(op.Constant(value_int=1), op.Shape(chosen, start=0, end=1))
        return op.Cast(op.ScatterND(none, chosen, ones), to=9)  # bool

    def roi_align(
        maps, rois, level, size: int, scales: list[float], sampling_ratio: int, aligned: bool
    ):
        image = op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=7)  # int64
        corners = op.Slice(rois, [1], [ROI_ROWS], [1])
        mode = "half_pixel" if aligned else "output_half_pixel"
        aligned_rois, order = [], []
        for i, (x, scale) in enumerate(zip(maps, scales, strict=True)):
            mine = op.Squeeze(op.NonZero(op.Equal(level, op.Constant(value_int=i))), [0])
            order.append(mine)
            aligned_rois.append(
                op.RoiAlign(
                    x,
                    op.Gather(corners, mine, axis=0),
                    op.Gather(image, mine, axis=0),
                    coordinate_transformation_mode=mode,
                    output_height=size,
                    output_width=size,
                    sampling_ratio=sampling_ratio,
                    spatial_scale=scale,
                )
            )
        order = op.Concat(*order, axis=0)  # (R,): the RoI of each row of the levels together
        count = op.Squeeze(op.Shape(order), [0])
        rows = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
        place = op.ScatterElements(rows, order, rows, axis=0)  # the row of each RoI
        return op.Gather(op.Concat(*aligned_rois, axis=0), place, axis=0)

    return {
        torch.ops.models_mm.kept_by_nms.default: nms,
        torch.ops.models_mm.roi_align_by_level.default: roi_align,
    }
