# Faster R-CNN as detectron2 trains it: the best anchors of a box are positive however low they are.
_base_ = "./faster_rcnn_fpn.py"
model = dict(train_cfg=dict(rpn=dict(assigner=dict(min_pos_iou=0.0, gt_max_assign_all=True))))
