# The same with masks, whose targets are cut from polygons.
_base_ = "./coco_detection_detectron2.py"
load_annotations = dict(type="LoadAnnotations", with_bbox=True, with_mask=True, poly2mask=False)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    load_annotations,
    dict(type="Resize", img_scale={{_base_.img_scale}}, keep_ratio=True, backend="pillow"),
    dict(type="RandomFlip", flip_ratio=0.5),
    {{_base_.normalize}},
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels", "gt_masks"]),
]
data = dict(train=dict(pipeline=train_pipeline))
evaluation = dict(metric=["bbox", "segm"])
