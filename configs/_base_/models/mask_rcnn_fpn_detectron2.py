# Mask R-CNN likewise; its boxes are matched by their overlap alone.
_base_ = "./mask_rcnn_fpn.py"
model = dict(
    train_cfg=dict(
        rpn=dict(assigner=dict(min_pos_iou=0.0, gt_max_assign_all=True)),
        rcnn=dict(assigner=dict(match_low_quality=False)),
    )
)
