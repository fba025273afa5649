# MPViT's 1x recipe of detectron2, by iterations: 90 000 of 16 images are 12.17 epochs. Every
# parameter decays, norms and biases included; the gradient of the whole model is clipped.
optimizer = dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
optimizer_config = dict(grad_clip=dict(max_norm=1.0, norm_type=2))
lr_config = dict(
    policy="step",
    by_epoch=False,
    step=[60000, 80000],
    gamma=0.1,
    warmup="linear",
    warmup_by_epoch=False,
    warmup_iters=1000,
    warmup_ratio=0.01,
)
runner = dict(type="IterBasedRunner", max_iters=90000)
