_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/kernelwarehouse_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="ResNet",
        depth=50,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/resnet50_imagenet.pth"),
    ),
    neck=dict(in_channels=[512, 1024, 2048], start_level=0),
)
