_base_ = [
    "../_base_/models/cascade_mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/kernelwarehouse_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="KW_ResNet",
        depth=50,
        cell_num_ratio=1,
        sharing_range=("layer", "conv"),
        frozen_stages=1,
        norm_eval=True,
        drop_path_rate=0.1,  # of every block
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/kw1x_resnet50_imagenet.pth"),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
