# RetinaNet as in detectron2, on strides 8 to 32: P7 looks at ReLU(P6), boxes are clipped after NMS,
# losses are divided by a running mean of the number of positive anchors. (NMS class by class: the
# offset that keeps classes apart in one call counts on boxes within the image.)
_base_ = "./retinanet_fpn.py"
model = dict(
    neck=dict(start_level=0, relu_before_extra_convs=True),
    bbox_head=dict(type="Detectron2RetinaHead", bbox_coder=dict(clip_border=False)),
    test_cfg=dict(nms=dict(split_thr=1)),
)
