"""``mmcv._ext`` on top of torchvision, when mmcv's compiled operators are not installed.

mmcv 1.7 imports its compiled module at import time of ``mmcv.ops`` and asserts that every operator
is there. The stand-in implements those that MMDetection's detectors call (NMS, soft-NMS, RoIAlign,
RoIPool, sigmoid focal loss) and answers for all others with a function that raises when called.
Compiled operators are used when they are there.

Differences that remain: RoIPool rounds the RoI's corners to cells as in the Fast R-CNN paper (and
torchvision), where mmcv's CUDA kernel does not; RoIAlign knows ``pool_mode='avg'`` only.
"""

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

NAME = "mmcv._ext"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes kept, by falling score. ``boxes`` (N, 4), ``scores`` (N,)."""
    if boxes.dtype == torch.bfloat16:  # no kernel for it on the CPU
        boxes, scores = boxes.float(), scores.float()
    if offset:  # a box of old counts its last pixel: x2 + 1 - x1
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # torchvision compares float32 IoUs with a double, mmcv with a float32: an IoU of exactly 0.6
    # (rounded up in float32) would exceed a threshold of 0.6 here and not there
    return torchvision.ops.nms(boxes, scores, float(np.float32(iou_threshold)))


@np.errstate(invalid="ignore")  # the IoU of two boxes without area is NaN
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., arXiv 1704.04503): fills ``dets`` (N, 5) and returns indices.

    ``method``: 0 removes (plain NMS), 1 scales the score by ``1 - IoU`` above the threshold, 2 by
    ``exp(-IoU^2 / sigma)``. Boxes whose score falls below ``min_score`` are dropped. The order,
    ties included, is that of mmcv's compiled operator: the best box moves to the front, a dropped
    one is replaced by the last.
    """
    # rows: x1, y1, x2, y2, score, area; NumPy's call overhead is a tenth of torch's here
    rows = torch.cat([boxes, scores[:, None], scores[:, None]], 1).float().numpy().T.copy()
    rows[5] = (rows[2] - rows[0] + offset) * (rows[3] - rows[1] + offset)
    index = np.arange(rows.shape[1])
    zero, thresh = np.float32(0), np.float32(iou_threshold)
    done, count = 0, rows.shape[1]
    while done < count:
        best = done + int(rows[4, done:count].argmax())
        rows[:, [done, best]] = rows[:, [best, done]]
        index[[done, best]] = index[[best, done]]
        x1, y1, x2, y2, _, area = rows[:, done]
        done += 1
        rest = rows[:, done:count]
        width = np.maximum(zero, np.minimum(x2, rest[2]) - np.maximum(x1, rest[0]) + offset)
        height = np.maximum(zero, np.minimum(y2, rest[3]) - np.maximum(y1, rest[1]) + offset)
        inter = width * height
        iou = inter / (area + rest[5] - inter)
        if method == 2:
            rest[4] *= np.exp(-(iou * iou) / np.float32(sigma))
        else:
            decay = zero if method == 0 else 1 - iou
            rest[4] = np.where(iou >= thresh, rest[4] * decay, rest[4])
        keep = rest[4] >= min_score
        kept = int(keep.sum())
        holes = done + np.flatnonzero(~keep[:kept])
        fillers = done + kept + np.flatnonzero(keep[kept:])[::-1]
        rows[:, holes] = rows[:, fillers]
        index[holes] = index[fillers]
        count = done + kept
    dets[:count] = torch.from_numpy(rows[:5, :count].T.copy())
    return torch.from_numpy(index[:count])


def _widest(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: of the most precise operand, float32 for bfloat16 (no kernel)."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _in_one_type(function, *tensors: Tensor) -> Tensor:
    """Call a torchvision operator, which wants all operands in one dtype.

    RoIs in float32 keep their precision over half-precision features: in half, a coordinate
    beyond 1024 would move by up to half a pixel.
    """
    dtype = _widest(*tensors)
    return function(*(t.to(dtype) for t in tensors))


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign of ``input`` (N, C, H, W) at ``rois`` (R, 5) into ``output`` (R, C, h, w)."""
    if pool_mode != 1:
        raise unavailable("roi_align_forward with pool_mode='max'")
    size = (aligned_height, aligned_width)

    def align(x, r):
        return torchvision.ops.roi_align(x, r, size, spatial_scale, sampling_ratio, aligned)

    output.copy_(_in_one_type(align, input, rois))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of RoIAlign with respect to its input, into ``grad_input`` (N, C, H, W)."""
    pooled = (aligned_height, aligned_width)
    shape, ratio = grad_input.shape, sampling_ratio

    def backward(grad, r):
        return torch.ops.torchvision._roi_align_backward(
            grad.contiguous(), r, spatial_scale, *pooled, *shape, ratio, aligned
        )

    grad_input.copy_(_in_one_type(backward, grad_output, rois))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool of ``input`` (N, C, H, W) at ``rois`` (R, 5) into ``output`` (R, C, h, w)."""
    dtype = _widest(input, rois)
    pooled, chosen = torch.ops.torchvision.roi_pool(
        input.to(dtype), rois.to(dtype), spatial_scale, pooled_height, pooled_width
    )
    output.copy_(pooled)
    argmax.copy_(chosen)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of RoIPool with respect to its input, into ``grad_input`` (N, C, H, W)."""
    pooled, shape = (pooled_height, pooled_width), grad_input.shape

    def backward(grad, r):
        return torch.ops.torchvision._roi_pool_backward(
            grad.contiguous(), r, argmax, spatial_scale, *pooled, *shape
        )

    grad_input.copy_(_in_one_type(backward, grad_output, rois))


def _focal_operands(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits turned so that their sigmoid is the truth's probability, factors, truth: all (N, C).

    ``target`` (N,) holds C for the background, which ``weight`` (C,) says nothing of: it counts 1.
    """
    logits = input.to(torch.promote_types(input.dtype, torch.float32))
    truth = target[:, None] == torch.arange(input.size(1), device=input.device)
    factor = torch.where(truth, alpha, 1 - alpha).to(logits.dtype)
    if weight.numel():
        factor = factor * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    return torch.where(truth, logits, -logits), factor, truth


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss (arXiv 1708.02002) of logits (N, C) into ``output`` (N, C)."""
    z, factor, _ = _focal_operands(input, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-z) ** gamma * F.logsigmoid(z))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the summed focal loss with respect to the logits, into ``grad_input``.

    By formula: autograd's ``gamma * (1 - p) ** (gamma - 1)`` is infinite where p rounds to 1.
    """
    z, factor, truth = _focal_operands(input, target, weight, alpha)
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    slope = -factor * q**gamma * (q - gamma * p * F.logsigmoid(z))
    grad_input.copy_(torch.where(truth, slope, -slope))


def get_compiler_version() -> str:
    """What mmcv's environment report prints as the compiler of its operators."""
    return "none (operators from torchvision)"


def get_compiling_cuda_version() -> str:
    """What mmcv's environment report prints as the CUDA version of its operators."""
    return "none (operators from torchvision)"


IMPLEMENTED = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    roi_pool_forward,
    roi_pool_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    get_compiler_version,
    get_compiling_cuda_version,
)


def unavailable(name: str) -> NotImplementedError:
    """The error of an operator that torchvision has no counterpart for."""
    return NotImplementedError(
        f"the operator {name} exists only in mmcv-full's compiled operators: run `make mmcv-full`"
    )


def _missing(name: str):
    """An attribute of the stand-in that is no operator of ours: it raises when called."""
    if name.startswith("__"):
        raise AttributeError(name)

    def operator(*args, **kwargs):
        raise unavailable(name)

    return operator


def in_use() -> str:
    """Which operators ``mmcv.ops`` runs on: ``'mmcv-full'`` or ``'torchvision'``."""
    module = sys.modules.get(NAME)
    return "torchvision" if isinstance(module, StandIn) else "mmcv-full"


class StandIn(types.ModuleType):
    """The module that takes the place of ``mmcv._ext``."""


def stand_in() -> StandIn:
    """The implemented operators, and an answer for every other name."""
    module = StandIn(NAME, __doc__)
    module.__spec__ = importlib.machinery.ModuleSpec(NAME, loader=None)
    for function in IMPLEMENTED:
        setattr(module, function.__name__, function)
    module.__getattr__ = _missing
    return module


def apply() -> None:
    """Install the stand-in unless compiled operators are there.

    Raises:
        ImportError: compiled operators are installed but do not load (another torch's build).
    """
    if NAME not in sys.modules and importlib.util.find_spec(NAME) is None:
        sys.modules[NAME] = importlib.import_module("mmcv")._ext = stand_in()
    if in_use() == "torchvision":
        return
    try:
        compiled = importlib.import_module(NAME)
    except ImportError as error:
        raise ImportError(
            f"mmcv-full's compiled operators do not load with torch {torch.__version__} "
            f"({error}): rebuild them with `models_mm setup --mmcv-full`, or go without: "
            "`pip uninstall -y mmcv-full`, then `models_mm setup`"
        ) from error
    for function in IMPLEMENTED:
        add_bfloat16(compiled, function)


def add_bfloat16(compiled: types.ModuleType, function) -> None:
    """Let ours take bfloat16, which mmcv's compiled operators are older than; idempotent."""
    original = getattr(compiled, function.__name__, None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def operator(*args, **kwargs):
        bfloat16 = args and args[0].dtype == torch.bfloat16
        return (function if bfloat16 else original)(*args, **kwargs)

    setattr(compiled, function.__name__, operator)
