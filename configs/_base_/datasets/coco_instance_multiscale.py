# COCO boxes and masks with multi-scale training as in DETR: half of the images at one of eleven
# scales, half of them resized, cropped and resized again.
_base_ = "./coco_instance.py"
scales = [
    *((480, 1333), (512, 1333), (544, 1333), (576, 1333), (608, 1333), (640, 1333)),
    *((672, 1333), (704, 1333), (736, 1333), (768, 1333), (800, 1333)),
]
multiscale = dict(
    type="AutoAugment",
    policies=[
        [dict(type="Resize", img_scale=scales, multiscale_mode="value", keep_ratio=True)],
        [
            dict(
                type="Resize",
                img_scale=[(400, 1333), (500, 1333), (600, 1333)],
                multiscale_mode="value",
                keep_ratio=True,
            ),
            dict(
                type="RandomCrop",
                crop_type="absolute_range",
                crop_size=(384, 600),
                allow_negative_crop=True,
            ),
            dict(
                type="Resize",
                img_scale=scales,
                multiscale_mode="value",
                override=True,
                keep_ratio=True,
            ),
        ],
    ],
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", flip_ratio=0.5),
    multiscale,
    {{_base_.normalize}},
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels", "gt_masks"]),
]
data = dict(train=dict(pipeline=train_pipeline))
