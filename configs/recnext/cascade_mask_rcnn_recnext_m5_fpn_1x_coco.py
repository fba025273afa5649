_base_ = [
    "../_base_/models/cascade_mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/recnext_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="recnext_m5",
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/recnext_m5_distill_300e.pth"),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
