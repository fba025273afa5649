# Multi-scale training as in DETR, after the flip: half of the images at one of eleven scales, half
# of them resized, cropped and resized again. detectron2's first resize of the latter has no cap on
# the long side, for which 4200 stands: no image of COCO is seven times as long as wide.
_base_ = "./coco_instance_detectron2.py"
scales = [
    *((480, 1333), (512, 1333), (544, 1333), (576, 1333), (608, 1333), (640, 1333)),
    *((672, 1333), (704, 1333), (736, 1333), (768, 1333), (800, 1333)),
]
resize_to_one = dict(type="Resize", multiscale_mode="value", keep_ratio=True, backend="pillow")
multiscale = dict(
    type="AutoAugment",
    policies=[
        [dict(resize_to_one, img_scale=scales)],
        [
            dict(resize_to_one, img_scale=[(400, 4200), (500, 4200), (600, 4200)]),
            dict(
                type="RandomCrop",
                crop_type="absolute_range",
                crop_size=(384, 600),
                allow_negative_crop=True,
            ),
            dict(resize_to_one, img_scale=scales, override=True),
        ],
    ],
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    {{_base_.load_annotations}},
    dict(type="RandomFlip", flip_ratio=0.5),
    multiscale,
    {{_base_.normalize}},
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels", "gt_masks"]),
]
data = dict(train=dict(pipeline=train_pipeline))
