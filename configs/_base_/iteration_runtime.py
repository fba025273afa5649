# For schedules that count iterations.
_base_ = "./default_runtime.py"
checkpoint_config = dict(by_epoch=False, interval=10000)
