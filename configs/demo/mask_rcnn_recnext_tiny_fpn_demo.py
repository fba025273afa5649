# A small RecNeXt Mask R-CNN from scratch on the drawn data of tools/make_demo_coco.py: minutes on
# two CPU cores. Its figures say that everything works, and nothing about the published models.
_base_ = [
    "../_base_/models/mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/recnext_1x.py",
    "../_base_/default_runtime.py",
]
classes = ("ellipse", "rectangle", "triangle", "star", "cross")
img_scale = (256, 192)
data_root = "data/demo/"

width = 64  # of the neck and the heads
norm = dict(type="BN")  # in neck and heads too: nothing here is pretrained
rois = dict(out_channels=width, featmap_strides=[8, 16, 32])
model = dict(
    backbone=dict(
        type="RecNeXt", arch=dict(series="m", width=32, depths=(1, 1, 2, 1), mlp_ratio=2)
    ),
    neck=dict(
        in_channels=[32, 64, 128, 256], out_channels=width, start_level=1, num_outs=4, norm_cfg=norm
    ),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4], strides=[8, 16, 32, 64]),
    ),
    roi_head=dict(
        bbox_roi_extractor=rois,
        bbox_head=dict(
            type="Shared4Conv1FCBBoxHead",
            in_channels=width,
            conv_out_channels=width,
            fc_out_channels=256,
            norm_cfg=norm,
            num_classes=len(classes),
        ),
        mask_roi_extractor=rois,
        mask_head=dict(
            num_convs=2,
            in_channels=width,
            conv_out_channels=width,
            num_classes=len(classes),
            norm_cfg=norm,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", img_scale=img_scale, keep_ratio=True),
    dict(type="RandomFlip", flip_ratio=[0.25, 0.25], direction=["horizontal", "vertical"]),
    {{_base_.normalize}},
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels", "gt_masks"]),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="MultiScaleFlipAug",
        img_scale=img_scale,
        flip=False,
        transforms=[
            dict(type="Resize", keep_ratio=True),
            dict(type="RandomFlip"),
            {{_base_.normalize}},
            dict(type="Pad", size_divisor=32),
            dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"]),
        ],
    ),
]
train = dict(
    classes=classes,
    ann_file=data_root + "annotations/instances_train2017.json",
    img_prefix=data_root + "train2017/",
    pipeline=train_pipeline,
)
val = dict(
    classes=classes,
    ann_file=data_root + "annotations/instances_val2017.json",
    img_prefix=data_root + "val2017/",
    pipeline=test_pipeline,
)
data = dict(samples_per_gpu=2, workers_per_gpu=1, train=train, val=val, test=val)

optimizer = dict(lr=2e-3)
lr_config = dict(
    _delete_=True,
    policy="CosineAnnealing",
    min_lr_ratio=0.01,
    warmup="linear",
    warmup_iters=100,
    warmup_ratio=0.01,
)
runner = dict(max_epochs=6)
auto_scale_lr = dict(base_batch_size=4)  # 2 processes x 2 images
log_config = dict(interval=20)
