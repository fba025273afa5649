_base_ = [
    "../_base_/models/faster_rcnn_fpn_detectron2.py",
    "../_base_/datasets/coco_detection_detectron2.py",
    "../_base_/schedules/mpvit_1x.py",
    "../_base_/iteration_runtime.py",
]
model = dict(
    backbone=dict(
        type="mpvit_base",
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/mpvit_base_d2.pth"),
    ),
    neck=dict(in_channels=[224, 368, 480, 480]),
)
