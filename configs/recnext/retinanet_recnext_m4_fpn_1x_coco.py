_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/recnext_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="recnext_m4",
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/recnext_m4_distill_300e.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
