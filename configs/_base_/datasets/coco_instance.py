# COCO 2017 boxes and masks.
_base_ = "./coco_detection.py"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", img_scale={{_base_.img_scale}}, keep_ratio=True),
    dict(type="RandomFlip", flip_ratio=0.5),
    {{_base_.normalize}},
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels", "gt_masks"]),
]
data = dict(train=dict(pipeline=train_pipeline))
evaluation = dict(metric=["bbox", "segm"])
