"""A detector of mmdet's interface, small enough to follow, and its data as mmdet collates it."""

import torch
from mmcv.parallel import DataContainer
from mmdet.models.detectors import BaseDetector
from torch import nn


class TinyDetector(BaseDetector):
    """Regresses the sum of each image's boxes; ``extra`` is a layer that is not always used."""

    def __init__(self, extra: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.extra = nn.Linear(4, 4) if extra else None

    def extract_feat(self, img):
        return self.norm(self.conv(img)).relu().mean((2, 3))

    def forward_train(self, img, img_metas, gt_bboxes):
        assert all(isinstance(meta, dict) for meta in img_metas)
        features = self.extract_feat(img)
        if self.extra is not None and img_metas[0].get("use_extra"):
            features = self.extra(features)
        wanted = torch.stack([boxes.sum(0) for boxes in gt_bboxes])
        return {"loss_box": (features - wanted).square().mean()}

    def simple_test(self, img, img_metas, rescale=False):
        features = self.extract_feat(img)
        return [(meta["name"], row) for meta, row in zip(img_metas, features, strict=True)]

    def aug_test(self, imgs, img_metas, rescale=False):
        raise NotImplementedError


def training_batch(seed: int, use_extra: bool = False) -> dict:
    """What mmdet's collate makes of two images with different numbers of boxes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 8, 8, generator=generator)
    boxes = [torch.rand(count, 4, generator=generator) for count in (1, 3)]
    metas = [{"name": f"{seed}.{i}", "use_extra": use_extra} for i in range(2)]
    return {
        "img": DataContainer([images], stack=True),
        "img_metas": DataContainer([metas], cpu_only=True),
        "gt_bboxes": DataContainer([boxes]),
    }


def inference_batch(seed: int) -> dict:
    """One image as a test loader gives it: a list over augmentations."""
    batch = training_batch(seed)
    images, metas = batch["img"].data[0][:1], batch["img_metas"].data[0][:1]
    return {"img": [images], "img_metas": [DataContainer([metas], cpu_only=True)]}
