# The same for RetinaNet, with a small decay of every parameter.
_base_ = "./biformer_1x.py"
optimizer = dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4)
