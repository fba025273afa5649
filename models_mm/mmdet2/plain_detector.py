"""A detector as one traceable module: uint8 images in, boxes, scores, labels and masks out.

It computes what MMDetection's FasterRCNN, MaskRCNN, CascadeRCNN and RetinaNet compute in a test,
with their own backbone, neck and heads; normalisation and padding come before, and the division by
the resize factor after them. All outputs have a fixed number of rows. The first ``count`` rows of
an image are its objects, the best first; the others are zero.

Shape legend: N batch, H, W image, C classes, A anchors of a position, L anchors or candidates of an
image, K objects of an image, R rows (objects or proposals of all images).
"""

import math

import torch
import torch.nn.functional as F
from mmdet.core.bbox.coder import DeltaXYWHBBoxCoder
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.detectors import CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from models_mm.errors import UserError
from models_mm.layers.detection_operators import (
    kept_by_nms,
    roi_align_by_level,
    scores_after_soft_nms,
)
from models_mm.layers.forms import round_up
from models_mm.mmdet2.heads import Detectron2RetinaHead
from models_mm.values import choice, number, whole

LARGEST_GROWTH = abs(math.log(16 / 1000))  # mmdet's limit on the logarithm of a change of size
NONE = -1e30  # score of a row that is no box
SOFT_NMS = dict(iou_threshold=0.3, sigma=0.5, min_score=1e-3, method="linear")  # mmcv's defaults


class PlainDetector(nn.Module):
    """The whole test of a detector.

    Args:
        detector: mmdet's, in eval mode, with its weights.
        normalisation: ``mean`` and ``std`` (3,) and ``to_rgb`` of the config's pipeline.
        divisor: height and width of the padded images are multiples of it.
        max_det: K.

    Attributes:
        stride: of its coarsest map.
        with_masks: whether there are masks among the outputs.

    Raises:
        UserError: a part of the detector has no traceable form here.
    """

    def __init__(self, detector: nn.Module, normalisation: dict, divisor: int, max_det: int):
        super().__init__()
        check(detector)
        self.backbone, self.neck = detector.backbone, detector.neck
        self.register_buffer("mean", torch.tensor(normalisation["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation["std"]).view(3, 1, 1))
        self.to_rgb, self.divisor = normalisation["to_rgb"], divisor
        self.dtype = torch.float32
        if isinstance(detector, RetinaNet):
            self.rpn, self.boxes = None, RetinaBoxes(detector.bbox_head, max_det)
        else:
            self.rpn = Proposals(detector.rpn_head)
            self.boxes = RoIBoxes(detector.roi_head, max_det)
        anchors = (self.boxes if self.rpn is None else self.rpn).anchors
        self.stride = max(side for sides in anchors.strides for side in sides)
        self.with_masks = self.rpn is not None and detector.roi_head.with_mask
        self.masks = RoIMasks(detector.roi_head) if self.with_masks else None

    def in_half(self) -> "PlainDetector":
        """Let backbone, neck and heads compute in float16, in place; boxes stay in float32."""
        heads = [part.head for part in (self.rpn,) if part is not None]
        heads += [self.boxes.head] if self.rpn is None else self.boxes.heads
        heads += self.masks.heads if self.with_masks else []
        for network in (self.backbone, self.neck, *heads):
            network.half()
        self.dtype = torch.float16
        return self

    def forward(
        self, images: Tensor, image_sizes: Tensor, original_sizes: Tensor
    ) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images: resized photos, RGB (N, 3, H, W), uint8 or float32 from 0 to 255, each in the
                upper left corner; what is beside it does not count.
            image_sizes: int64 (N, 2), height and width of each resized photo.
            original_sizes: int64 (N, 2), those before it was resized.

        Returns:
            Boxes (N, K, 4), left, top, right, bottom in pixels of the original photo; scores
            (N, K); labels (N, K), int64; with masks, their probabilities (N, K, S, S) within the
            boxes; the number of objects (N,), int64.
        """
        limits = image_sizes.flip(1)[:, None].float()  # (N, 1, 2): width, height
        scales = limits / original_sizes.flip(1)[:, None].float()
        x = self.prepared(images, image_sizes).to(self.dtype)
        maps = self.neck(self.backbone(x))
        if self.rpn is None:
            boxes, scores, labels = self.boxes(maps, limits, scales)
        else:
            proposals, valid = self.rpn(maps, limits)
            boxes, scores, labels = self.boxes(maps, proposals, valid, limits, scales)
        valid = scores > NONE
        count = valid.sum(1)
        boxes = boxes * valid[..., None]
        outputs = boxes, torch.where(valid, scores, 0.0), labels * valid
        if self.masks is None:
            return *outputs, count
        return *outputs, self.masks(maps, boxes * double(scales), labels, valid), count

    def prepared(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Normalised images, zero beside the photos and up to a multiple of the divisor."""
        x = images.float()
        if not self.to_rgb:
            x = x.flip(1)
        x = (x - self.mean) * (1 / self.std)
        rows = torch.arange(x.shape[2], device=x.device)[:, None]
        columns = torch.arange(x.shape[3], device=x.device)
        heights, widths = image_sizes[:, :, None, None].unbind(1)  # each (N, 1, 1)
        inside = (rows < heights) & (columns < widths)  # (N, H, W)
        x = torch.where(inside[:, None], x, 0.0)
        below, right = (round_up(side, self.divisor) - side for side in x.shape[2:])
        return F.pad(x, (0, right, 0, below))


class Proposals(nn.Module):
    """The RPN: maps -> boxes (N, L, 4) in pixels of the images, and which of them count (N, L).

    Logits are in the order of the probabilities that mmdet compares. ONNX Runtime rounds
    probabilities below 1e-8 to zero, and loses the order of the last proposals.
    """

    def __init__(self, head: RPNHead):
        super().__init__()
        self.head, self.coder, self.cfg = head, head.bbox_coder, head.test_cfg
        self.anchors = Anchors(head.prior_generator)

    def forward(self, maps: tuple[Tensor, ...], limits: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores, levels = [], [], []
        for level, x in enumerate(maps):
            logits, deltas = floats(self.head.forward_single(x))  # (N, A, H, W), (N, 4 A, H, W)
            by_anchor = logits.permute(0, 2, 3, 1).flatten(1)  # (N, H W A)
            of_level, index = best_of(by_anchor, self.cfg.nms_pre)
            deltas = taken(deltas.permute(0, 2, 3, 1).unflatten(3, (-1, 4)).flatten(1, 3), index)
            anchors = self.anchors(level, logits)[index]
            boxes.append(decoded(self.coder, anchors, deltas, limits))
            scores.append(of_level)
            levels.append(torch.full_like(of_level, level))
        boxes, scores, levels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1)
        if self.cfg.min_bbox_size >= 0:
            large = (boxes[..., 2:] - boxes[..., :2] > self.cfg.min_bbox_size).all(2)
            scores = torch.where(large, scores, NONE)
        apart = boxes + offsets(boxes, levels, scores > NONE)
        if is_soft(self.cfg.nms):
            scores = torch.where(scores > NONE, scores.sigmoid(), NONE)
        most = self.cfg.max_per_img
        scores, index = best_of(suppressed(apart, scores, self.cfg.nms, NONE / 2, most), most)
        return taken(boxes, index), scores > NONE


class RetinaBoxes(nn.Module):
    """RetinaNet's head: maps -> boxes (N, K, 4) in pixels of the photos, scores, labels (N, K)."""

    def __init__(self, head: RetinaHead, max_det: int):
        super().__init__()
        self.head, self.coder, self.cfg = head, head.bbox_coder, head.test_cfg
        self.anchors, self.max_det = Anchors(head.prior_generator), max_det
        self.clips_last = isinstance(head, Detectron2RetinaHead)

    def forward(
        self, maps: tuple[Tensor, ...], limits: Tensor, scales: Tensor
    ) -> tuple[Tensor, ...]:
        classes = self.head.num_classes
        boxes, scores, labels = [], [], []
        for level, x in enumerate(maps):
            logits, deltas = floats(self.head.forward_single(x))  # (N, A C or 4 A, H, W)
            probabilities = logits.permute(0, 2, 3, 1).flatten(1).sigmoid()  # (N, H W A C)
            able = torch.where(probabilities > self.cfg.score_thr, probabilities, NONE)
            of_level, index = best_of(able, self.cfg.nms_pre)
            place = index // classes
            deltas = taken(deltas.permute(0, 2, 3, 1).unflatten(3, (-1, 4)).flatten(1, 3), place)
            anchors = self.anchors(level, x)[place]
            boxes.append(decoded(self.coder, anchors, deltas, limits))
            scores.append(of_level)
            labels.append(index % classes)
        boxes, scores, labels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(labels, 1)
        boxes = boxes / double(scales)
        apart = boxes + offsets(boxes, labels, scores > NONE)
        if is_soft(self.cfg.nms):
            scores = suppressed(apart, scores, self.cfg.nms, NONE / 2, self.max_det)
        else:
            # Boxes that are not clipped may reach into those of another class, whatever the offset:
            # each class gets its own scores.
            own = labels[:, None] == torch.arange(classes, device=labels.device)[:, None]
            by_class = torch.where(own, scores[:, None], NONE)  # (N, C, L)
            kept = kept_by_nms(apart, by_class, self.cfg.nms.iou_threshold, NONE / 2, self.max_det)
            scores = torch.where(kept.any(1), scores, NONE)
        scores, index = best_of(scores, self.max_det)
        boxes, labels = taken(boxes, index), taken(labels, index)
        if self.clips_last:
            boxes = clipped(boxes, (limits / scales).round())
            left = (boxes[..., :2] < boxes[..., 2:]).all(2)
            scores, index = best_of(torch.where(left, scores, NONE), self.max_det)
            boxes, labels = taken(boxes, index), taken(labels, index)
        return boxes, scores, labels


class RoIBoxes(nn.Module):
    """The box heads: proposals -> boxes (N, K, 4) in pixels of the photos, scores, labels (N, K).

    A cascade has several heads. Each of them refines the boxes of the one before, and the scores
    are those of all of them together.
    """

    def __init__(self, roi_head: nn.Module, max_det: int):
        super().__init__()
        self.heads = as_list(roi_head.bbox_head)
        self.features = nn.ModuleList(map(RoIFeatures, as_list(roi_head.bbox_roi_extractor)))
        self.cfg, self.max_det = roi_head.test_cfg, max_det

    def forward(
        self, maps: tuple[Tensor, ...], boxes: Tensor, valid: Tensor, limits: Tensor, scales: Tensor
    ) -> tuple[Tensor, ...]:
        shape = valid.shape
        rows, image, boxes = rows_of(boxes, valid)  # (R,), (R,), (R, 4)
        limits, total = limits[image], 0  # (R, 1, 2)
        for head, features in zip(self.heads, self.features, strict=True):
            found = head(features(maps, image, boxes))
            logits, deltas = floats(found)  # (R, C + 1), (R, 4 C) or (R, 4)
            total = total + logits
            deltas = deltas.unflatten(1, (-1, 4))  # (R, C or 1, 4)
            refined = decoded(head.bbox_coder, boxes[:, None], deltas, limits)
            if not head.reg_class_agnostic:
                boxes = taken(refined, logits[:, :-1].argmax(1, keepdim=True))[:, 0]
            else:
                boxes = refined[:, 0]
        scores = (total / len(self.heads)).softmax(1)[:, :-1]
        boxes = refined / double(scales)[image]
        # Back to one row per proposal; those that do not count have the score 0 of every class.
        scores = placed(scores, rows, shape) * valid[..., None]  # (N, L, C)
        boxes = placed(boxes, rows, shape)  # (N, L, C or 1, 4)
        classes = scores.shape[2]
        boxes = boxes.expand(-1, -1, classes, -1).flatten(1, 2)  # (N, L C, 4)
        scores = scores.flatten(1)
        labels = torch.arange(classes, device=scores.device).repeat(shape[1])  # (L C,)
        apart = boxes + offsets(boxes, labels[None], scores > self.cfg.score_thr)
        scores = suppressed(apart, scores, self.cfg.nms, self.cfg.score_thr, self.max_det)
        scores, index = best_of(scores, self.max_det)
        return taken(boxes, index), scores, index % classes


class RoIMasks(nn.Module):
    """The mask heads: objects (N, K) -> probabilities (N, K, S, S), the mean over a cascade's."""

    def __init__(self, roi_head: nn.Module):
        super().__init__()
        self.heads = as_list(roi_head.mask_head)
        self.features = nn.ModuleList(map(RoIFeatures, as_list(roi_head.mask_roi_extractor)))

    def forward(
        self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """Boxes (N, K, 4) in pixels of the images."""
        rows, image, boxes = rows_of(boxes, valid)
        labels, total = labels.flatten()[rows], 0
        for head, features in zip(self.heads, self.features, strict=True):
            logits = head(features(maps, image, boxes))  # (R, C or 1, S, S)
            label = torch.zeros_like(labels) if head.class_agnostic else labels
            total = total + taken(logits, label[:, None])[:, 0].float().sigmoid()
        masks = placed(total / len(self.heads), rows, valid.shape)
        return masks * valid[..., None, None]


class RoIFeatures(nn.Module):
    """RoIAlign in the map that fits the size of a box: (R,), (R, 4) -> (R, channels, S, S)."""

    def __init__(self, extractor: SingleRoIExtractor):
        super().__init__()
        layer = extractor.roi_layers[0]
        self.size, self.ratio = layer.output_size[0], max(layer.sampling_ratio, 0)
        self.scales = [1 / stride for stride in extractor.featmap_strides]
        self.finest = extractor.finest_scale

    def forward(self, maps: tuple[Tensor, ...], image: Tensor, boxes: Tensor) -> Tensor:
        maps = list(maps[: len(self.scales)])
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        level = ((width * height).sqrt() / self.finest + 1e-6).log2().floor()
        level = level.nan_to_num().clamp(0, len(maps) - 1).long()  # NaN: damaged weights
        rois = torch.cat((image[:, None].to(boxes), boxes), 1)
        out = roi_align_by_level(
            [x.float() for x in maps], rois, level, self.size, self.scales, self.ratio, aligned=True
        )
        return out.to(maps[0].dtype)


class Anchors(nn.Module):
    """The anchors of a level: a map (N, ..., H, W) -> (H W A, 4), position by position."""

    def __init__(self, generator):
        super().__init__()
        self.strides = generator.strides  # of each level: horizontal, vertical
        for level, base in enumerate(generator.base_anchors):
            self.register_buffer(f"base{level}", base.float())  # (A, 4)

    def forward(self, level: int, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        across = torch.arange(width, device=x.device).float() * self.strides[level][0]
        down = torch.arange(height, device=x.device).float() * self.strides[level][1]
        corner = torch.stack(torch.broadcast_tensors(across, down[:, None]), 2)  # (H, W, 2)
        shifts = torch.cat((corner, corner), 2)[:, :, None]  # (H, W, 1, 4)
        return (self.get_buffer(f"base{level}") + shifts).flatten(0, 2)


def decoded(coder: DeltaXYWHBBoxCoder, priors: Tensor, deltas: Tensor, limits: Tensor) -> Tensor:
    """Boxes from their differences to others, within limits if the coder clips.

    Args:
        coder: has the means and deviations of the differences.
        priors: (..., 4).
        deltas: (..., 4).
        limits: (..., 2), width and height of the image.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    size = priors[..., 2:] - priors[..., :2]
    centre = (priors[..., :2] + priors[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-LARGEST_GROWTH, LARGEST_GROWTH).exp() * 0.5
    boxes = torch.cat((centre - half, centre + half), -1)
    return clipped(boxes, limits) if coder.clip_border else boxes


def clipped(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes (..., 4) within (0, 0) and limits (..., 2)."""
    return boxes.clamp(min=0).minimum(double(limits))


def double(pair: Tensor) -> Tensor:
    """(..., 2) -> (..., 4): a value for both corners of a box."""
    return torch.cat((pair, pair), -1)


def best_of(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The best scores (N, most) of each row of (N, L), and their indices, for any L.

    If there are fewer, the last ones are ``NONE`` and their indices have no meaning.
    """
    best, index = F.pad(scores, (0, most), value=NONE).topk(most)
    return best, index.clamp(max=scores.shape[1] - 1)


def taken(x: Tensor, index: Tensor) -> Tensor:
    """Entries (N, K, ...) of (N, L, ...), by their indices (N, K)."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]


def offsets(boxes: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """What moves boxes (N, L, 4) of different groups (N, L) apart, (N, L, 1), as mmcv does.

    The sums are rounded, and NMS sees rounded boxes. The same offsets give the same rounding.
    """
    largest = torch.where(valid[..., None], boxes, 0.0).amax((1, 2), keepdim=True)
    return groups[..., None].to(boxes) * (largest + 1)


def suppressed(boxes: Tensor, scores: Tensor, nms: dict, lowest: float, most: int) -> Tensor:
    """Scores after plain or soft NMS; ``NONE`` for a box that it drops.

    Args:
        boxes: (N, L, 4); those of different groups do not overlap.
        scores: (N, L).
        nms: of the config.
        lowest: boxes that have no higher score do not take part.
        most: number of boxes that are needed of an image.
    """
    if not is_soft(nms):
        kept = kept_by_nms(boxes, scores[:, None], nms["iou_threshold"], lowest, most)[:, 0]
        return torch.where(kept, scores, NONE)
    settings = SOFT_NMS | {key: value for key, value in nms.items() if key in SOFT_NMS}
    able = torch.where(scores > lowest, scores, -1.0)
    soft = scores_after_soft_nms(boxes, able, **settings, most=most)
    return torch.where(soft >= 0, soft, NONE)


def is_soft(nms: dict) -> bool:
    """Whether a config wants soft NMS."""
    return nms.get("type") == "soft_nms"


def rows_of(boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The valid boxes of all images in one list: heads do not work for the others.

    Args:
        boxes: (N, L, 4).
        valid: (N, L).

    Returns:
        The position of each among N * L (R,), the image (R,), and the box (R, 4). The very first
        box is always in the list, because not every runtime computes with nothing.
    """
    valid = valid.flatten()
    first = torch.arange(valid.shape[0], device=valid.device) == 0
    rows = (valid | first).nonzero()[:, 0]
    torch._check(rows.shape[0] >= 1)
    return rows, rows // boxes.shape[1], boxes.flatten(0, 1)[rows]


def placed(x: Tensor, rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """The inverse of :func:`rows_of`: (R, ...) -> (N, L, ...), zero in the other places."""
    places = x.new_zeros(shape[0] * shape[1], *x.shape[1:])
    return places.index_put((rows,), x).unflatten(0, shape)


def floats(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Tensors as float32."""
    return tuple(x.float() for x in tensors)


def as_list(part: nn.Module) -> nn.ModuleList:
    """The stages of a cascade; of a detector without one, its only stage."""
    return part if isinstance(part, nn.ModuleList) else nn.ModuleList([part])


def check(detector: nn.Module) -> None:
    """Refuse what this module does not compute.

    Raises:
        UserError: names the part, and the types that it may be of.
    """
    one_of("model", detector, FasterRCNN, MaskRCNN, CascadeRCNN, RetinaNet)
    if not detector.with_neck:
        raise UserError("model.neck is missing: a detector without neck cannot be exported")
    if isinstance(detector, RetinaNet):
        head = detector.bbox_head
        one_of("model.bbox_head", head, RetinaHead, Detectron2RetinaHead)
        if not head.use_sigmoid_cls:
            raise UserError("model.bbox_head.loss_cls must use the sigmoid to be exported")
        check_boxes("model.bbox_head", head, "model.test_cfg", head.test_cfg)
        return
    rpn, roi_head = detector.rpn_head, detector.roi_head
    one_of("model.rpn_head", rpn, RPNHead)
    if not rpn.use_sigmoid_cls:
        raise UserError("model.rpn_head.loss_cls must use the sigmoid to be exported")
    check_boxes("model.rpn_head", rpn, "model.test_cfg.rpn", rpn.test_cfg)
    one_of("model.roi_head", roi_head, StandardRoIHead, CascadeRoIHead)
    if roi_head.with_shared_head:
        raise UserError("model.roi_head.shared_head cannot be exported")
    for head in as_list(roi_head.bbox_head):
        if not isinstance(head, ConvFCBBoxHead):
            one_of("model.roi_head.bbox_head", head, ConvFCBBoxHead)
        if head.custom_activation:
            raise UserError("model.roi_head.bbox_head.loss_cls with its own activation")
        check_boxes("model.roi_head.bbox_head", head, "model.test_cfg.rcnn", roi_head.test_cfg)
    extractors = [*as_list(roi_head.bbox_roi_extractor)]
    if roi_head.with_mask:
        for head in as_list(roi_head.mask_head):
            one_of("model.roi_head.mask_head", head, FCNMaskHead)
        extractors += as_list(roi_head.mask_roi_extractor)
    for extractor in extractors:
        one_of("a RoI extractor of model.roi_head", extractor, SingleRoIExtractor)
        layer = extractor.roi_layers[0]
        if (
            type(layer).__name__ != "RoIAlign"
            or layer.pool_mode != "avg"
            or not layer.aligned
            or len(set(layer.output_size)) > 1
        ):
            raise UserError(
                "a roi_layer of model.roi_head cannot be exported: it must be RoIAlign with "
                "pool_mode='avg' and aligned=True, and its output a square"
            )


def one_of(name: str, part: nn.Module, *types: type) -> None:
    """Refuse a part of another type; a subclass may compute something else."""
    if type(part) not in types:
        names = ", ".join(t.__name__ for t in types)
        raise UserError(f"{name}: a {type(part).__name__} cannot be exported, only {names}")


def check_boxes(name: str, head: nn.Module, cfg_name: str, cfg) -> None:
    """Refuse another coding of boxes than mmdet's usual one, and another NMS than the usual one."""
    one_of(f"{name}.bbox_coder", head.bbox_coder, DeltaXYWHBBoxCoder)
    if head.bbox_coder.add_ctr_clamp:
        raise UserError(f"{name}.bbox_coder.add_ctr_clamp cannot be exported")
    if isinstance(head, RPNHead | RetinaHead) and cfg.get("nms_pre", -1) <= 0:
        raise UserError(f"{cfg_name}.nms_pre must be a number to be exported, such as 1000")
    check_nms(f"{cfg_name}.nms", dict(cfg.get("nms") or {}))
    if is_soft(cfg.nms) and not head.bbox_coder.clip_border:
        raise UserError(f"{name}.bbox_coder.clip_border must be True to be exported with soft NMS")
    if isinstance(head, RPNHead):
        whole(1).check(f"{cfg_name}.max_per_img", cfg.get("max_per_img"))


def check_nms(name: str, settings: dict) -> None:
    """Refuse another NMS than plain NMS and soft NMS, and what their operators do not take."""
    soft = is_soft(settings)
    kind = settings.pop("type", "nms")
    if not soft and kind != "nms":
        raise UserError(f"{name}: type {kind!r} cannot be exported, only plain NMS and soft NMS")
    known = {"iou_threshold", "split_thr", "offset", *(SOFT_NMS if soft else ())}
    if unknown := set(settings) - known:
        raise UserError(f"{name}: {', '.join(sorted(unknown))} cannot be exported")
    choice(0).check(f"{name}.offset", settings.get("offset", 0))
    number().check(f"{name}.split_thr", settings.get("split_thr", 0))
    if soft:
        settings = SOFT_NMS | settings
        choice("linear", "gaussian").check(f"{name}.method", settings["method"])
        number(above=0).check(f"{name}.sigma", settings["sigma"])
        number(0, 1).check(f"{name}.min_score", settings["min_score"])
    number(0, 1).check(f"{name}.iou_threshold", settings.get("iou_threshold"))
