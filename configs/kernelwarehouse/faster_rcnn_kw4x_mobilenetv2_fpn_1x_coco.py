_base_ = "./faster_rcnn_kw1x_mobilenetv2_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        cell_num_ratio=4,
        sharing_range="layer",
        init_cfg=dict(checkpoint="pretrain/kw4x_mobilenetv2_imagenet.pth"),
    )
)
