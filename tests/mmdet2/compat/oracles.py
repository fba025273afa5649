"""Detection operators written the slow, direct way, for comparison."""

import math

import numpy as np
import torch
from torch import Tensor


def random_boxes(count: int, seed: int, size: float = 60.0) -> tuple[Tensor, Tensor]:
    """Crowded boxes (N, 4) and distinct scores (N,), in float32."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    extent = torch.rand(count, 2, generator=generator) * size / 2 + 1
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return torch.cat([corner, corner + extent], 1), scores


def random_rois() -> Tensor:
    """RoIs (R, 5) on two images of 40 x 28: inside, tiny, huge, and beyond every border."""
    return torch.tensor(
        [
            [0, 4.3, 3.1, 20.7, 25.2],
            [1, 10.0, 8.0, 10.9, 9.1],
            [1, -9.5, -7.0, 55.0, 41.0],
            [0, 30.2, 1.0, 39.9, 27.9],
            [1, 36.0, 24.0, 60.0, 50.0],
            [0, 0.0, 0.0, 40.0, 28.0],
        ],
        dtype=torch.float64,
    )


def iou(a, b, offset: int = 0) -> float:
    """Intersection over union of two boxes; ``offset`` 1 counts pixels, corners included."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int = 0) -> list[int]:
    """Indices that survive, best first: a box goes when a better survivor overlaps it more."""
    rows, kept = boxes.double().tolist(), []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(rows[i], rows[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Algorithm 1 of arXiv 1704.04503, in place as in mmcv: detections (M, 5) and indices.

    In single precision and with mmcv's exchanges (the best to the front, the last into the place
    of a dropped one), since these decide the order of equal scores.
    """
    f = np.float32
    rows = [
        [*map(f, box), f(score), index]
        for index, (box, score) in enumerate(zip(boxes.tolist(), scores.tolist(), strict=True))
    ]
    i = 0
    while i < len(rows):
        best = max(range(i, len(rows)), key=lambda k: (rows[k][4], -k))
        rows[i], rows[best] = rows[best], rows[i]
        k = i + 1
        while k < len(rows):
            overlap = iou(rows[i], rows[k], f(offset))
            if method == "gaussian":
                rows[k][4] *= f(np.exp(-(overlap * overlap) / f(sigma)))
            elif overlap >= f(threshold):
                rows[k][4] *= f(0) if method == "naive" else f(1) - overlap
            if rows[k][4] < f(min_score):
                rows[k] = rows[-1]
                rows.pop()
            else:
                k += 1
        i += 1
    return torch.tensor([row[:5] for row in rows]).view(-1, 5), [row[5] for row in rows]


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Values (C,) of an image (C, H, W) at a point; zero more than one pixel outside."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(image.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * image[:, top, left] + dx * image[:, top, right]
    lower = (1 - dx) * image[:, bottom, left] + dx * image[:, bottom, right]
    return (1 - dy) * upper + dy * lower


def roi_align(
    images: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int, aligned: bool
) -> Tensor:
    """Mean of bilinear samples on a regular grid in each bin (arXiv 1703.06870, section 3)."""
    out = images.new_zeros(len(rois), images.shape[1], *size)
    for r, (index, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:  # the first version of the operator
            width, height = max(width, 1), max(height, 1)
        ny = samples or math.ceil(height / size[0])
        nx = samples or math.ceil(width / size[1])
        for i in range(size[0]):
            for j in range(size[1]):
                for a in range(ny):
                    for b in range(nx):
                        y = y1 + (i + (a + 0.5) / ny) * height / size[0]
                        x = x1 + (j + (b + 0.5) / nx) * width / size[1]
                        value = bilinear(images[int(index)], y, x)
                        out[r, :, i, j] = out[r, :, i, j] + value / (ny * nx)
    return out


def roi_pool(images: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Maximum over each bin's cells, RoIs rounded to cells first (arXiv 1504.08083)."""
    height, width = images.shape[2:]
    out = images.new_zeros(len(rois), images.shape[1], *size)
    for r, (index, *corners) in enumerate(rois.tolist()):
        # halves are rounded away from zero
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(c * scale) + 0.5), c)) for c in corners)
        bin_h, bin_w = max(y2 - y1 + 1, 1) / size[0], max(x2 - x1 + 1, 1) / size[1]
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = y1 + math.floor(i * bin_h), x1 + math.floor(j * bin_w)
                bottom, right = y1 + math.ceil((i + 1) * bin_h), x1 + math.ceil((j + 1) * bin_w)
                ys = slice(min(max(top, 0), height), min(max(bottom, 0), height))
                xs = slice(min(max(left, 0), width), min(max(right, 0), width))
                cells = images[int(index), :, ys, xs].flatten(1)
                if cells.shape[1]:
                    out[r, :, i, j] = cells.max(1).values
    return out


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None
) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t of every class (arXiv 1708.02002, equation 5)."""
    loss = torch.zeros_like(logits)
    for n, label in enumerate(target.tolist()):
        for c in range(logits.shape[1]):
            # p_t is the sigmoid of the logit, turned round for all classes but the true one
            z = logits[n, c] if c == label else -logits[n, c]
            alpha_t = alpha if c == label else 1 - alpha
            loss[n, c] = -alpha_t * torch.sigmoid(-z) ** gamma * torch.nn.functional.logsigmoid(z)
        if weight is not None and label < logits.shape[1]:
            loss[n] = loss[n] * weight[label]
    return loss
