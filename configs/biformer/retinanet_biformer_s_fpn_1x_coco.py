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
        type="biformer_s",
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/biformer_small_best.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
checkpoint_config = dict(max_keep_ckpts=1)
