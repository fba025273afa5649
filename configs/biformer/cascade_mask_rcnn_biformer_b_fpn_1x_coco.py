_base_ = [
    "../_base_/models/cascade_mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/biformer_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="biformer_b",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/biformer_base_best.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
checkpoint_config = dict(max_keep_ckpts=1)
