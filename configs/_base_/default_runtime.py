custom_imports = dict(imports=["models_mm"], allow_failed_imports=False)

checkpoint_config = dict(interval=1)
log_config = dict(
    interval=50, hooks=[dict(type="TextLoggerHook"), dict(type="TensorboardLoggerHook")]
)
custom_hooks = [dict(type="NumClassCheckHook")]

dist_params = dict(backend="nccl")
find_unused_parameters = False
log_level = "INFO"
load_from = None
resume_from = None
workflow = [("train", 1)]

# No threads inside OpenCV: the data workers are the parallelism.
opencv_num_threads = 0
mp_start_method = "fork"

# `--auto-scale-lr` scales the rate to the real batch; 16 = 8 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=16)

# What a run does about faults (docs/faults.md): seconds without progress that end it, the share of
# images that may be unusable, and "stop" or "skip" for a loss that is not finite.
faults = dict(hang_timeout=1800, bad_images=0.01, nonfinite_loss="stop")
