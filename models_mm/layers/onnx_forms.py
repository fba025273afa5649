"""The ONNX forms of the detection operators, of operators of ONNX's own set alone.

Only exporting needs this module, and onnxscript.

Shape legend: N batch, L boxes, R RoIs, S triples of indices.
"""

import torch
from onnxscript import BOOL, FLOAT, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from models_mm.layers import detection_operators  # noqa: F401  # registers them

ROI_ROWS = 5  # image, left, top, right, bottom


def nms(boxes, scores, iou_threshold: float, score_threshold: float, most: int):
    """Of ``kept_by_nms``."""
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


def soft_nms(
    boxes,
    scores,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    most: int,
):
    """Of ``scores_after_soft_nms``."""
    numbers = [op.Constant(value_float=x) for x in (iou_threshold, sigma, min_score)]
    linear = op.Cast(op.Constant(value_int=int(method == "linear")), to=9)  # bool
    return soft_nms_loop(boxes, scores, *numbers, linear, op.Constant(value_int=most))


@script(Opset("models_mm", 1), default_opset=op)
def soft_nms_loop(
    boxes: FLOAT,
    scores: FLOAT,
    iou_threshold: FLOAT,
    sigma: FLOAT,
    min_score: FLOAT,
    linear: BOOL,
    most: INT64,
) -> FLOAT:
    # A coordinate after the other: six times as fast as pairs of them.
    x1 = op.Gather(boxes, 0, axis=2)  # (N, L)
    y1 = op.Gather(boxes, 1, axis=2)
    x2 = op.Gather(boxes, 2, axis=2)
    y2 = op.Gather(boxes, 3, axis=2)
    areas = (x2 - x1) * (y2 - y1)
    none = op.Constant(value_float=-1.0)
    tiny = op.Constant(value_float=1e-30)
    left = scores
    taken = op.Expand(none, op.Shape(scores))
    for _ in range(most):
        best = op.ArgMax(left, axis=1, keepdims=1)  # (N, 1)
        score = op.GatherElements(left, best, axis=1)
        score = op.Max(score, op.GatherElements(taken, best, axis=1))
        taken = op.ScatterElements(taken, best, score, axis=1)
        right = op.Min(x2, op.GatherElements(x2, best, axis=1))
        bottom = op.Min(y2, op.GatherElements(y2, best, axis=1))
        width = right - op.Max(x1, op.GatherElements(x1, best, axis=1))
        height = bottom - op.Max(y1, op.GatherElements(y1, best, axis=1))
        common = op.Relu(width) * op.Relu(height)
        union = op.GatherElements(areas, best, axis=1) + areas - common
        # Of two boxes without area it is 0: OpenVINO compares NaN otherwise than others.
        iou = common / op.Max(union, tiny)
        if linear:
            decayed = op.Where(iou >= iou_threshold, left * (1.0 - iou), left)
        else:
            decayed = op.Where(union > 0.0, left * op.Exp(op.Neg(iou * iou) / sigma), none)
        able = op.And(left > none, decayed >= min_score)
        left = op.Where(able, decayed, none)
        left = op.ScatterElements(left, best, op.Expand(none, op.Shape(best)), axis=1)
        nothing = op.ReduceMax(left, keepdims=0) <= none
        if nothing:
            break
    return taken


def roi_align(
    maps, rois, level, size: int, scales: list[float], sampling_ratio: int, aligned: bool
):
    """Of ``roi_align_by_level``."""
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


# of each operator, for ``torch.onnx.export(custom_translation_table=...)``
ONNX_FORMS = {
    torch.ops.models_mm.kept_by_nms.default: nms,
    torch.ops.models_mm.scores_after_soft_nms.default: soft_nms,
    torch.ops.models_mm.roi_align_by_level.default: roi_align,
}
