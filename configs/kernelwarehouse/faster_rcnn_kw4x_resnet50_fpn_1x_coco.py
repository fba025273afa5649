_base_ = "./faster_rcnn_kw1x_resnet50_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        cell_num_ratio=4,
        init_cfg=dict(checkpoint="pretrain/kw4x_resnet50_imagenet.pth"),
    )
)
