# A RetinaNet of 40 thousand weights that draws random numbers everywhere: in the data (flips) and
# in the model (stochastic depth). Milliseconds an iteration.
_base_ = "../../configs/_base_/default_runtime.py"
classes = ("ellipse", "rectangle", "triangle", "star", "cross")
model = dict(
    type="RetinaNet",
    backbone=dict(
        type="RecNeXt",
        arch=dict(series="m", width=8, depths=(1, 1, 1, 1), mlp_ratio=1),
        drop_path_rate=0.3,
        out_indices=(2, 3),
    ),
    neck=dict(type="FPN", in_channels=[32, 64], out_channels=16, num_outs=2),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=len(classes),
        in_channels=16,
        stacked_convs=1,
        feat_channels=16,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=2,
            scales_per_octave=1,
            ratios=[1.0],
            strides=[16, 32],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=50,
        min_bbox_size=0,
        score_thr=0.0,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=20,
    ),
)
normalize = dict(type="Normalize", mean=[128.0] * 3, std=[64.0] * 3, to_rgb=True)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", img_scale=[(64, 48), (96, 64)], multiscale_mode="range", keep_ratio=True),
    dict(type="RandomFlip", flip_ratio=0.5),
    normalize,
    dict(type="Pad", size_divisor=32),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_bboxes", "gt_labels"]),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="MultiScaleFlipAug",
        img_scale=(64, 48),
        flip=False,
        transforms=[
            dict(type="Resize", keep_ratio=True),
            normalize,
            dict(type="Pad", size_divisor=32),
            dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"]),
        ],
    ),
]
data_root = "data/demo/"
train = dict(
    type="CocoDataset",
    classes=classes,
    ann_file=data_root + "annotations/instances_train2017.json",
    img_prefix=data_root + "train2017/",
    pipeline=train_pipeline,
)
val = dict(
    type="CocoDataset",
    classes=classes,
    ann_file=data_root + "annotations/instances_val2017.json",
    img_prefix=data_root + "val2017/",
    pipeline=test_pipeline,
)
data = dict(samples_per_gpu=1, workers_per_gpu=1, train=train, val=val, test=val)
evaluation = dict(interval=1, metric="bbox")
optimizer = dict(type="AdamW", lr=1e-3)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy="CosineAnnealing", min_lr=0, warmup="linear", warmup_iters=4)
runner = dict(type="EpochBasedRunner", max_epochs=2)
log_config = dict(_delete_=True, interval=1, hooks=[dict(type="TextLoggerHook")])
