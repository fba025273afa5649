_base_ = [
    "../_base_/models/mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/kernelwarehouse_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="KW_MobileNetV2",
        out_indices=(1, 2, 3, 4),
        cell_num_ratio=1,
        sharing_range=("layer", "pwconv"),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/kw1x_mobilenetv2_imagenet.pth"),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
