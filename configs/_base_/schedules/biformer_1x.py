# BiFormer's 1x recipe: AdamW in native mixed precision, no decay of the layer norms. (Batch norms
# and biases do decay: the published rule goes by "norm" in the name; its other keys match nothing.)
_base_ = "./schedule_1x.py"
optimizer = dict(
    type="AdamW",
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
)
fp16 = dict(loss_scale=512.0)
