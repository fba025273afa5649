# KernelWarehouse's 1x recipe for ConvNeXt: rates that fall towards the input, no decay of vectors
# and biases. Cells of warehouses learn at the full rate. Rates are for 16 images: 8 GPUs x 2.
_base_ = "./schedule_1x.py"
optimizer = dict(
    constructor="LearningRateDecayOptimizerConstructor",
    type="AdamW",
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    paramwise_cfg=dict(decay_rate=0.95, decay_type="layer_wise", num_layers=6),
)
lr_config = dict(step=[9, 11])
