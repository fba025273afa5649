# The demo's small detector for boxes alone.
_base_ = "./mask_rcnn_recnext_tiny_fpn_demo.py"
model = dict(type="FasterRCNN", roi_head=dict(mask_roi_extractor=None, mask_head=None))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", img_scale={{_base_.img_scale}}, keep_ratio=True),
    dict(type="RandomFlip", flip_ratio=[0.25, 0.25], direction=["horizontal", "vertical"]),
    {{_base_.normalize}},
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels"]),
]
data = dict(train=dict(pipeline=train_pipeline))
evaluation = dict(metric="bbox")
