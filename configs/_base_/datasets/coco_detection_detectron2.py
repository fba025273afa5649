# COCO boxes as detectron2 prepares them: images resized by Pillow, those without boxes kept. To the
# last grey level its images also need `mmcv.use_backend("pillow")`, which decodes JPEG as it does.
_base_ = "./coco_detection.py"
resize = dict(type="Resize", keep_ratio=True, backend="pillow")
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", img_scale={{_base_.img_scale}}, keep_ratio=True, backend="pillow"),
    dict(type="RandomFlip", flip_ratio=0.5),
    {{_base_.normalize}},
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels"]),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="MultiScaleFlipAug",
        img_scale={{_base_.img_scale}},
        flip=False,
        transforms=[
            resize,
            dict(type="RandomFlip"),
            {{_base_.normalize}},
            dict(type="Pad", size_divisor=32),
            dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"]),
        ],
    ),
]
data = dict(
    train=dict(pipeline=train_pipeline, filter_empty_gt=False),
    val=dict(pipeline=test_pipeline),
    test=dict(pipeline=test_pipeline),
)
evaluation = dict(interval=10000)
