_base_ = [
    "../_base_/models/mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/kernelwarehouse_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="MobileNetV2",
        out_indices=(1, 2, 4, 7),
        frozen_stages=2,  # up to the same layer as with warehouses
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/mobilenetv2_imagenet.pth"),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
