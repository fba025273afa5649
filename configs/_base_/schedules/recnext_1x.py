# RecNeXt's 1x recipe: AdamW with decay on every parameter, warmup from a millionth.
_base_ = "./schedule_1x.py"
optimizer = dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05)
lr_config = dict(warmup_ratio=1e-6)
