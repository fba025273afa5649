_base_ = [
    "../_base_/models/cascade_mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/biformer_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="biformer_s",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/biformer_small_best.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
checkpoint_config = dict(max_keep_ckpts=1)
