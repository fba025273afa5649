_base_ = [
    "../_base_/models/retinanet_fpn_detectron2.py",
    "../_base_/datasets/coco_detection_detectron2_multiscale.py",
    "../_base_/schedules/mpvit_3x.py",
    "../_base_/iteration_runtime.py",
]
model = dict(
    backbone=dict(
        type="mpvit_tiny",
        out_indices=(1, 2, 3),
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/mpvit_tiny_d2.pth"),
    ),
    neck=dict(in_channels=[176, 216, 216]),
)
