_base_ = [
    "../_base_/models/cascade_mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance_detectron2.py",
    "../_base_/schedules/mpvit_1x.py",
    "../_base_/iteration_runtime.py",
]
model = dict(
    backbone=dict(
        type="mpvit_small",
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/mpvit_small_d2.pth"),
    ),
    neck=dict(in_channels=[128, 216, 288, 288]),
)
