# The published table labels this row KW (4x); its config and its parameters are those of 1x.
_base_ = [
    "../_base_/models/mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/kernelwarehouse_convnext_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="KW_ConvNeXt",
        arch="t",
        cell_num_ratio=1,
        sharing_range=("layer", "pwconv"),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/kw1x_convnext_t_imagenet.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
