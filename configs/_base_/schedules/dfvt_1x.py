# DFvT's 1x recipe: AdamW without decay where Swin has none, half precision (apex there, native
# here). Rates are for 16 images: 4 GPUs x 4.
_base_ = "./schedule_1x.py"
optimizer = dict(
    type="AdamW",
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    paramwise_cfg=dict(
        custom_keys={
            "absolute_pos_embed": dict(decay_mult=0.0),
            "relative_position_bias_table": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
)
fp16 = dict(loss_scale="dynamic")
