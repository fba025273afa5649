"""Checkpoints of MPViT as detectron2 writes them, and what detectron2 makes of their heads.

The oracles are its documented behaviour written out for one image: anchors by size and then ratio,
background last, NMS before (RetinaNet) and after (Mask R-CNN) boxes are clipped.
"""

import torch
import torch.nn.functional as F
from torchvision.ops import nms, roi_align

from models_mm import create_backbone

PREFIX = "backbone.bottom_up.backbone."
LIMIT = torch.log(torch.tensor(1000 / 16))


def entries_of(detector: str, variant: str = "tiny", ratios=(2, 2, 2, 2)) -> dict:
    """Every key and shape by the published naming; heads that are alive."""
    torch.manual_seed(0)
    backbone = create_backbone(f"mpvit_{variant}", mlp_ratio=list(ratios)).state_dict()
    entries = {PREFIX + key: value for key, value in backbone.items()}
    widths = [len(backbone[f"mhca_stages.{i}.aggregate.conv.weight"]) for i in range(4)]
    for name, shape in head_shapes(detector, widths):
        fan_in = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
        entries[f"{name}.weight"] = torch.randn(shape) * (2 / fan_in) ** 0.5
        outputs = shape[1] if name.endswith("deconv") else shape[0]
        entries[f"{name}.bias"] = 0.1 * torch.randn(outputs)
    return entries


def head_shapes(detector: str, widths: list[int]):
    first = 3 if detector == "retinanet" else 2
    for level in range(first, 6):
        yield f"backbone.fpn_lateral{level}", (256, widths[level - 2], 1, 1)
        yield f"backbone.fpn_output{level}", (256, 256, 3, 3)
    if detector == "retinanet":
        yield "backbone.top_block.p6", (256, widths[3], 3, 3)
        yield "backbone.top_block.p7", (256, 256, 3, 3)
        for branch in ("cls", "bbox"):
            for i in (0, 2, 4, 6):
                yield f"head.{branch}_subnet.{i}", (256, 256, 3, 3)
        yield "head.cls_score", (720, 256, 3, 3)
        yield "head.bbox_pred", (36, 256, 3, 3)
        return
    yield "proposal_generator.rpn_head.conv", (256, 256, 3, 3)
    yield "proposal_generator.rpn_head.objectness_logits", (3, 256, 1, 1)
    yield "proposal_generator.rpn_head.anchor_deltas", (12, 256, 1, 1)
    yield "roi_heads.box_head.fc1", (1024, 256 * 49)
    yield "roi_heads.box_head.fc2", (1024, 1024)
    yield "roi_heads.box_predictor.cls_score", (81, 1024)
    yield "roi_heads.box_predictor.bbox_pred", (320, 1024)
    for i in range(1, 5):
        yield f"roi_heads.mask_head.mask_fcn{i}", (256, 256, 3, 3)
    yield "roi_heads.mask_head.deconv", (256, 256, 2, 2)
    yield "roi_heads.mask_head.predictor", (80, 256, 1, 1)


def conv(entries: dict, name: str, x, padding=1, stride=1):
    return F.conv2d(
        x, entries[f"{name}.weight"], entries[f"{name}.bias"], padding=padding, stride=stride
    )


def linear(entries: dict, name: str, x):
    return F.linear(x, entries[f"{name}.weight"], entries[f"{name}.bias"])


def pyramid(entries: dict, maps: list) -> list:
    """FPN levels of the backbone's maps (three for RetinaNet, four for Mask R-CNN)."""
    first = 6 - len(maps)
    inner, levels = None, []
    for level, x in reversed(list(enumerate(maps, first))):
        lateral = conv(entries, f"backbone.fpn_lateral{level}", x, padding=0)
        if inner is not None:
            lateral = lateral + F.interpolate(inner, scale_factor=2, mode="nearest")
        inner = lateral
        levels.insert(0, conv(entries, f"backbone.fpn_output{level}", inner))
    if first == 2:
        return [*levels, levels[-1][:, :, ::2, ::2]]
    p6 = conv(entries, "backbone.top_block.p6", maps[-1], stride=2)
    return [*levels, p6, conv(entries, "backbone.top_block.p7", F.relu(p6), stride=2)]


def anchors_of(height: int, width: int, stride: int, sizes: list[float]):
    """(H * W * A, 4): rows, columns, then sizes, then ratios; the first centre is the corner."""
    boxes = []
    for size in sizes:
        for ratio in (0.5, 1.0, 2.0):
            w, h = size / ratio**0.5, size * ratio**0.5
            boxes.append([-w / 2, -h / 2, w / 2, h / 2])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4) * stride
    return (shifts + torch.tensor(boxes)).reshape(-1, 4)


def decoded(anchors, deltas, weights=(1.0, 1.0, 1.0, 1.0)):
    """Boxes by centre and size; the growth has a limit."""
    dx, dy, dw, dh = (deltas / deltas.new_tensor(weights)).unbind(-1)
    w, h = anchors[..., 2] - anchors[..., 0], anchors[..., 3] - anchors[..., 1]
    x = (anchors[..., 0] + w / 2) + dx * w
    y = (anchors[..., 1] + h / 2) + dy * h
    w, h = w * dw.clamp(max=LIMIT).exp(), h * dh.clamp(max=LIMIT).exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def clipped(boxes, height, width):
    x, y = boxes[..., ::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def nonempty(boxes):
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def best(boxes, scores, classes, threshold, count):
    """NMS class by class, then the best of all."""
    kept = torch.cat(
        [
            own[nms(boxes[own], scores[own], threshold)]
            for c in classes.unique()
            for own in [(classes == c).nonzero()[:, 0]]
        ]
    )
    return kept[scores[kept].argsort(descending=True)][:count]


def retinanet(entries: dict, maps: list, size, original):
    """Boxes (n, 4), scores and classes in the original image."""
    boxes, scores, classes = [], [], []
    for level, x in enumerate(pyramid(entries, maps)):
        of_class, of_box = x, x
        for i in (0, 2, 4, 6):
            of_class = F.relu(conv(entries, f"head.cls_subnet.{i}", of_class))
            of_box = F.relu(conv(entries, f"head.bbox_subnet.{i}", of_box))
        height, width = x.shape[2:]
        logits = conv(entries, "head.cls_score", of_class)[0].view(9, 80, height, width)
        deltas = conv(entries, "head.bbox_pred", of_box)[0].view(9, 4, height, width)
        probability = logits.permute(2, 3, 0, 1).flatten().sigmoid()
        deltas = deltas.permute(2, 3, 0, 1).reshape(-1, 4)
        chosen = (probability > 0.05).nonzero()[:, 0]
        chosen = chosen[probability[chosen].argsort(descending=True)][:1000]
        sizes = [2 ** (5 + level) * 2 ** (s / 3) for s in range(3)]
        anchors = anchors_of(height, width, 8 * 2**level, sizes)
        boxes.append(decoded(anchors[chosen // 80], deltas[chosen // 80]))
        scores.append(probability[chosen])
        classes.append(chosen % 80)
    boxes, scores, classes = map(torch.cat, (boxes, scores, classes))
    kept = best(boxes, scores, classes, 0.5, 100)
    scale = torch.tensor([original[1] / size[1], original[0] / size[0]] * 2)
    boxes = clipped(boxes[kept] * scale, *original)
    real = nonempty(boxes)
    return boxes[real], scores[kept][real], classes[kept][real]


def proposals(entries: dict, levels: list, size):
    """(n, 4) in the network's image, best first."""
    boxes, scores, origin = [], [], []
    for level, x in enumerate(levels):
        x, (height, width) = (
            F.relu(conv(entries, "proposal_generator.rpn_head.conv", x)),
            x.shape[2:],
        )
        name = "proposal_generator.rpn_head"
        logits = conv(entries, f"{name}.objectness_logits", x, padding=0)[0].permute(1, 2, 0)
        deltas = conv(entries, f"{name}.anchor_deltas", x, padding=0)[0]
        deltas = deltas.view(3, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        chosen = logits.flatten().argsort(descending=True)[:1000]
        anchors = anchors_of(height, width, 4 * 2**level, [32 * 2**level])
        boxes.append(clipped(decoded(anchors[chosen], deltas[chosen]), *size))
        scores.append(logits.flatten()[chosen])
        origin.append(torch.full_like(chosen, level))
    boxes, scores, origin = map(torch.cat, (boxes, scores, origin))
    real = nonempty(boxes)
    boxes, scores, origin = boxes[real], scores[real], origin[real]
    return boxes[best(boxes, scores, origin, 0.7, 1000)]


def pooled(levels: list, boxes, output: int):
    """(n, 256, output, output) of the level that a box's area names."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = (4 + (sides / 224 + 1e-8).log2()).floor().clamp(2, 5).long() - 2
    out = boxes.new_zeros(len(boxes), 256, output, output)
    for i, x in enumerate(levels[:4]):
        own = level == i
        out[own] = roi_align(x, [boxes[own]], output, 1 / (4 * 2**i), 0, aligned=True)
    return out


def mask_rcnn(entries: dict, maps: list, size, original):
    """Boxes (n, 4), scores, classes in the original image and mask logits (n, 28, 28)."""
    levels = pyramid(entries, maps)
    rois = proposals(entries, levels, size)
    x = pooled(levels, rois, 7).flatten(1)
    for i in (1, 2):
        x = F.relu(linear(entries, f"roi_heads.box_head.fc{i}", x))
    probability = linear(entries, "roi_heads.box_predictor.cls_score", x).softmax(-1)[:, :80]
    deltas = linear(entries, "roi_heads.box_predictor.bbox_pred", x).view(-1, 80, 4)
    boxes = clipped(decoded(rois[:, None], deltas, (10.0, 10.0, 5.0, 5.0)), *size)  # (n, 80, 4)
    roi, classes = (probability > 0.05).nonzero().unbind(1)
    boxes, scores = boxes[roi, classes], probability[roi, classes]
    kept = best(boxes, scores, classes, 0.5, 100)
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    x = pooled(levels, boxes, 14)
    for i in range(1, 5):
        x = F.relu(conv(entries, f"roi_heads.mask_head.mask_fcn{i}", x))
    weight, bias = (entries[f"roi_heads.mask_head.deconv.{kind}"] for kind in ("weight", "bias"))
    x = F.relu(F.conv_transpose2d(x, weight, bias, stride=2))
    masks = conv(entries, "roi_heads.mask_head.predictor", x, padding=0)
    masks = masks[torch.arange(len(masks)), classes]
    scale = torch.tensor([original[1] / size[1], original[0] / size[0]] * 2)
    boxes = clipped(boxes * scale, *original)
    return boxes, scores, classes, masks
