# KernelWarehouse's 1x recipe: AdamW in float32, decay on everything but what has "norm" in its name
# (of these networks: the norms of the attentions). Rates are for 16 images: 8 GPUs x 2.
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
