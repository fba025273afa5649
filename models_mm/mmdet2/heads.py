"""RetinaNet's head with the two habits of detectron2's that MMDetection has no option for.

Sources: detectron2 0.5, ``modeling/meta_arch/retinanet.py`` (Apache-2.0), its documented behaviour;
no code of it.
"""

import torch
from mmdet.models.builder import HEADS
from mmdet.models.dense_heads import RetinaHead
from torch import Tensor


@HEADS.register_module()
class Detectron2RetinaHead(RetinaHead):
    """RetinaHead that clips boxes after NMS and divides losses by a running mean.

    Detections: NMS sees whole boxes (``bbox_coder.clip_border=False``), the best of them are scaled
    to the original image, clipped to it, and dropped if nothing is left, so that fewer than
    ``max_per_img`` may remain. Losses: the divisor is a running mean of the number of positive
    anchors of a process's images, which a resumed run goes on with.

    Args:
        loss_normalizer: first value of the running mean.
        loss_normalizer_momentum: its weight when a batch is added.
        args, kwargs: as RetinaHead's.
    """

    resumable = ("loss_normalizer",)

    def __init__(
        self, *args, loss_normalizer: float = 100, loss_normalizer_momentum: float = 0.9, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.loss_normalizer = float(loss_normalizer)
        self.loss_normalizer_momentum = loss_normalizer_momentum

    def get_targets(self, *args, **kwargs) -> tuple | None:
        """As RetinaHead's, with the running mean in place of the number of positive anchors."""
        targets = super().get_targets(*args, **kwargs)
        if targets is None:  # no anchor is inside of an image
            return None
        labels, *others, _, negatives = targets
        positives = sum(int((level < self.num_classes).sum()) for level in labels)
        momentum = self.loss_normalizer_momentum
        self.loss_normalizer *= momentum
        self.loss_normalizer += (1 - momentum) * max(positives, 1)
        return labels, *others, self.loss_normalizer, negatives

    def _get_bboxes_single(
        self, scores, deltas, factors, priors, meta, cfg, rescale=False, with_nms=True
    ) -> tuple[Tensor, ...]:
        """Boxes (n, 5) and labels (n) of an image; of test-time augmentation, all before NMS."""
        found = super()._get_bboxes_single(
            scores, deltas, factors, priors, meta, cfg, rescale, with_nms
        )
        if not with_nms:
            return found
        boxes, labels = found
        height, width = meta["ori_shape" if rescale else "img_shape"][:2]
        corners = boxes[:, :4].clamp(min=0)
        corners = torch.min(corners, corners.new_tensor([width, height, width, height]))
        kept = (corners[:, :2] < corners[:, 2:]).all(1)
        return torch.cat((corners, boxes[:, 4:]), 1)[kept], labels[kept]
