_base_ = [
    "../_base_/models/faster_rcnn_fpn.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/dfvt_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="dfvt_t",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/DFvT_tiny_coco_pretrained.pth"),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
data = dict(samples_per_gpu=4)
