_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/biformer_retinanet_1x.py",
    "../_base_/default_runtime.py",
]
# The published start_level=1 computed an output that nothing reads, and so needed
# find_unused_parameters; not to ask for it is the same detector with the same keys.
model = dict(
    backbone=dict(
        type="biformer_b",
        out_indices=(1, 2, 3),
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/biformer_base_best.pth"),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
checkpoint_config = dict(max_keep_ckpts=1)
