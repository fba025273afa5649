_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/kernelwarehouse_convnext_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="t",
        out_indices=(1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/convnext_t_imagenet.pth"),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
