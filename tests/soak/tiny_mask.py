# A Mask R-CNN on images of tens of pixels: tenths of a second an iteration.
_base_ = "../../configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"
width = 16
rois = dict(out_channels=width)
model = dict(
    backbone=dict(arch=dict(series="m", width=8, depths=(1, 1, 1, 1), mlp_ratio=1)),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=rois,
        bbox_head=dict(in_channels=width, conv_out_channels=width, fc_out_channels=32),
        mask_roi_extractor=rois,
        mask_head=dict(num_convs=1, in_channels=width, conv_out_channels=width),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(nms_pre=20, max_per_img=10), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
