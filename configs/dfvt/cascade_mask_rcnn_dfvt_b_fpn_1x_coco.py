_base_ = [
    "../_base_/models/cascade_mask_rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/dfvt_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        type="dfvt_b",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/DFvT_base_coco_pretrained.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
    test_cfg=dict(rpn=dict(nms=dict(type="soft_nms")), rcnn=dict(nms=dict(type="soft_nms"))),
)
data = dict(samples_per_gpu=4)
