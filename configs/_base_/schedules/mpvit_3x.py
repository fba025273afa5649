# The 3x recipe: 270 000 iterations, 36.52 epochs.
_base_ = "./mpvit_1x.py"
lr_config = dict(step=[210000, 250000])
runner = dict(max_iters=270000)
