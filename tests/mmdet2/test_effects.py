"""Every setting that a config takes changes what is built, or is refused, or said to do nothing.

A case is settings, what is looked at, and what it is then; without them it is something else.
"""

import models_mm  # noqa: F401  isort: skip
import inspect
import logging
import multiprocessing

import cv2
import mmcv.utils.logging
import pytest
import torch
from mmcv.runner import EMAHook, OptimizerHook
from mmdet.core import DistEvalHook, EvalHook
from mmdet.utils import get_root_logger

from models_mm import messages
from models_mm.cli import train as training
from models_mm.distributed import watchdog
from models_mm.errors import UserError
from models_mm.mmdet2 import building, overrides, settings
from models_mm.mmdet2.configs import check_files
from models_mm.mmdet2.snapshots import CheckpointWriter

from ..runs.conftest import options
from .assembled import REMOVED, TINY, Run

ITERATIONS = {"runner": dict(type="IterBasedRunner", max_iters=6, max_epochs=None)}
SGD = {"optimizer": dict(type="SGD", lr=0.1, momentum=0.9)}
DECAY = {"optimizer.weight_decay": 0.5}
STEP = {"lr_config": dict(_delete_=True, policy="step", step=[1])}
POLY = {"lr_config": dict(_delete_=True, policy="poly")}
WARM = dict(policy="step", step=[1], warmup="exp", warmup_iters=5)
MOMENTUM = dict(policy="step", step=[1])
CLIP = {"optimizer_config": dict(_delete_=True, grad_clip=dict(max_norm=3.0, norm_type=1))}
CUSTOM = {**DECAY, "optimizer.paramwise_cfg": dict(custom_keys={"backbone": dict(lr_mult=0.1)})}
BEST = {"evaluation.save_best": "bbox_mAP_50"}
ASSIGNING = dict(
    assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4), pos_weight=-1
)
EARLY = {"early_stopping": dict(patience=1), "runner.max_epochs": 7}
WORKERS = {"data.workers_per_gpu": 1}


def hook(name: str, attribute: str):
    """Looks at a hook, of which there is none or another one without the settings."""
    return lambda run: getattr(run.hook(name), attribute)


def schedule(attribute: str, name: str = "StepLrUpdaterHook"):
    return hook(name, attribute)


def group(name: str):
    return lambda run: run.group(name)


def groups(name: str):
    return lambda run: run.groups(name)


def evaluation(attribute: str):
    return hook("EvaluationHook", attribute)


def checkpoints(attribute: str):
    return lambda run: getattr(run.runner.checkpoints, attribute)


def step(attribute: str):
    return lambda run: getattr(run.runner.step, attribute)


def stopping(attribute: str):
    """Looks at the early stopping; ``None`` without one."""
    return lambda run: getattr(run.hook("EvaluationHook").early_stopping, attribute, None)


def names(run: Run) -> set[str]:
    return {type(one).__name__ for one in run.runner.hooks}


def has(name: str):
    return lambda run: name in names(run)


def batch(split: str):
    """The images of a batch."""

    def size(run: Run) -> int:
        loader = getattr(run, split)
        assert run.runner
        batches = getattr(loader.batches, "batches", loader.batches)
        return batches.batch_size

    return size


def order(run: Run) -> list[int]:
    return [index for one in run.train.batches for index, _ in one]


def start_of(split: str):
    def method(run: Run) -> str | None:
        context = getattr(run, split).multiprocessing_context
        return context and context.get_start_method()

    return method


def loader(split: str, attribute: str):
    return lambda run: getattr(getattr(run, split), attribute)


def wide_layout(run: Run) -> bool:
    weights = [weight for weight in run.model.parameters() if weight.dim() == 4]
    return all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def level(run: Run) -> int:
    return get_root_logger(log_level=run.cfg.log_level).level


def missing_file(run: Run) -> str:
    try:
        check_files(run.cfg, ())
    except UserError as error:
        return str(error).splitlines()[0]
    return ""


def cudnn(run: Run) -> bool:
    building.settle_device(run.cfg)
    return torch.backends.cudnn.benchmark


def threads(run: Run) -> int:
    assert run.prepared
    return cv2.getNumThreads()


def start_method(run: Run) -> str:
    assert run.prepared
    return multiprocessing.get_start_method()


# key: (settings, what is looked at, what it is)
EFFECTS = {
    "amp": ({"amp": "bfloat16"}, lambda r: hasattr(r.model.backbone.forward, "__wrapped__"), True),
    "channels_last": ({"channels_last": True}, wide_layout, True),
    "compile": ({"compile": True}, lambda r: r.model.backbone._compiled_call_impl is None, False),
    "log_level": ({"log_level": "ERROR"}, level, logging.ERROR),
    "mp_start_method": ({"mp_start_method": "spawn"}, start_method, "spawn"),
    "opencv_num_threads": ({"opencv_num_threads": 2}, threads, 2),
    "cudnn_benchmark": ({"cudnn_benchmark": True}, cudnn, True),
    "load_from": ({"load_from": "nowhere.pth"}, missing_file, "checkpoint not found: nowhere.pth"),
    "resume_from": ({"resume_from": "no.pth"}, missing_file, "checkpoint not found: no.pth"),
    "work_dir": ({"work_dir": "here"}, lambda run: run.prepared.work_dir, "here"),
    "train_cfg": (
        {"model.train_cfg": REMOVED, "train_cfg": dict(ASSIGNING, allowed_border=7)},
        lambda run: run.model.train_cfg.allowed_border,
        7,
    ),
    "test_cfg": (
        {"model.test_cfg": REMOVED, "test_cfg": dict(nms_pre=7)},
        lambda run: run.model.test_cfg.nms_pre,
        7,
    ),
    "workflow": ({"workflow": [("train", 1), ("val", 1)]}, lambda run: len(run.loaders), 2),
    "custom_hooks": (
        {"custom_hooks": [dict(type="EmptyCacheHook")]},
        has("EmptyCacheHook"),
        True,
    ),
    # data
    "data.samples_per_gpu": ({"data.samples_per_gpu": 3}, batch("train"), 3),
    "data.imgs_per_gpu": ({"data.imgs_per_gpu": 3}, batch("train"), 3),
    "data.val.samples_per_gpu": ({"data.val.samples_per_gpu": 3}, batch("val"), 3),
    "data.test.samples_per_gpu": ({"data.test.samples_per_gpu": 3}, batch("test"), 3),
    "data.train_dataloader.samples_per_gpu": (
        {"data.train_dataloader.samples_per_gpu": 3, "data.samples_per_gpu": REMOVED},
        batch("train"),
        3,
    ),
    "data.val_dataloader.samples_per_gpu": (
        {"data.val_dataloader.samples_per_gpu": 3},
        batch("val"),
        3,
    ),
    "data.test_dataloader.samples_per_gpu": (
        {"data.test_dataloader.samples_per_gpu": 3},
        batch("test"),
        3,
    ),
    "data.workers_per_gpu": (WORKERS, loader("val", "num_workers"), 1),
    **{
        f"data.{split}_dataloader.{name}": (
            {f"data.{split}_dataloader.{name}": value, **more},
            look(split),
            value,
        )
        for split in ("train", "val", "test")
        for name, value, more, look in (
            ("workers_per_gpu", 1, {}, lambda s: loader(s, "num_workers")),
            ("pin_memory", True, {}, lambda s: loader(s, "pinned")),
            ("prefetch_factor", 5, WORKERS, lambda s: loader(s, "prefetch_factor")),
            ("timeout", 9, WORKERS, lambda s: loader(s, "timeout")),
            ("multiprocessing_context", "fork", WORKERS, start_of),
        )
    },
    "data.train_dataloader.shuffle": (
        {"data.train_dataloader.shuffle": False},
        order,
        list(range(8)),
    ),
    "data.train_dataloader.drop_last": (
        # in order: groups of images of one shape are filled up instead
        {
            **{"data.train_dataloader.drop_last": True, "data.train_dataloader.shuffle": False},
            "data.samples_per_gpu": 3,
        },
        lambda run: len(run.train),
        2,
    ),
    "data.train_dataloader.class_aware_sampler.num_sample_class": (
        {"data.train_dataloader.class_aware_sampler": dict(num_sample_class=2)},
        lambda run: getattr(run.train.batches.batches.sampler, "num_sample_class", None),
        2,
    ),
    # runner
    "runner.type": (ITERATIONS, lambda run: type(run.runner).__name__, "IterationLoop"),
    "runner.max_epochs": ({"runner.max_epochs": 7}, lambda run: run.runner.max_epochs, 7),
    "runner.max_iters": (ITERATIONS, lambda run: run.runner.max_iters, 6),
    "total_epochs": (
        {"runner": REMOVED, "total_epochs": 7},
        lambda run: run.runner.max_epochs,
        7,
    ),
    # optimizer
    "optimizer.type": (
        {"optimizer.type": "SGD"},
        lambda r: type(r.runner.optimizer).__name__,
        "SGD",
    ),
    "optimizer.lr": ({"optimizer.lr": 0.5}, group("lr"), 0.5),
    "optimizer.weight_decay": (DECAY, group("weight_decay"), 0.5),
    "optimizer.momentum": (SGD, lambda run: run.group("momentum"), 0.9),
    "optimizer.eps": ({"optimizer.eps": 0.5}, group("eps"), 0.5),
    "optimizer.betas": ({"optimizer.betas": (0.1, 0.2)}, group("betas"), (0.1, 0.2)),
    "optimizer.fused": ({"optimizer.fused": True}, group("fused"), True),
    "optimizer.foreach": ({"optimizer.foreach": False}, group("foreach"), False),
    **{
        f"optimizer.paramwise_cfg.{name}": (
            {**DECAY, "optimizer.paramwise_cfg": {name: 0.1}},
            groups(changed),
            values,
        )
        for name, changed, values in (
            ("bias_lr_mult", "lr", {0.001, 0.0001}),
            ("bias_decay_mult", "weight_decay", {0.5, 0.05}),
            ("norm_decay_mult", "weight_decay", {0.5, 0.05}),
            ("dwconv_decay_mult", "weight_decay", {0.5, 0.05}),
        )
    },
    "optimizer.paramwise_cfg.custom_keys.*.lr_mult": (CUSTOM, groups("lr"), {0.001, 0.0001}),
    "optimizer.paramwise_cfg.custom_keys.*.decay_mult": (
        {**DECAY, "optimizer.paramwise_cfg": dict(custom_keys={"backbone": dict(decay_mult=0.1)})},
        groups("weight_decay"),
        {0.5, 0.05},
    ),
    "optimizer_config.grad_clip.max_norm": (
        CLIP,
        lambda run: (run.runner.step.grad_clip or {}).get("max_norm"),
        3.0,
    ),
    "optimizer_config.grad_clip.norm_type": (
        CLIP,
        lambda run: (run.runner.step.grad_clip or {}).get("norm_type"),
        1,
    ),
    "optimizer_config.detect_anomalous_params": (
        {"optimizer_config.detect_anomalous_params": True},
        step("detect_anomalous_params"),
        True,
    ),
    "optimizer_config.cumulative_iters": (
        {"optimizer_config.cumulative_iters": 3},
        step("cumulative_iters"),
        3,
    ),
    "optimizer_config.type": (
        {"optimizer_config": dict(type="GradientCumulativeOptimizerHook", cumulative_iters=3)},
        has("GradientCumulativeOptimizerHook"),
        True,
    ),
    "fp16": ({"fp16": {}}, step("half"), True),
    # a whole number, which mmcv refuses
    "fp16.loss_scale": (
        {"fp16.loss_scale": 128},
        step("fixed_scale"),
        128.0,
    ),
    # schedules
    "lr_config.policy": (STEP, has("StepLrUpdaterHook"), True),
    "lr_config.by_epoch": ({**STEP, "lr_config.by_epoch": False}, schedule("by_epoch"), False),
    "lr_config.step": (STEP, schedule("step"), [1]),
    "lr_config.gamma": ({**STEP, "lr_config.gamma": 0.3}, schedule("gamma"), 0.3),
    "lr_config.min_lr": ({**STEP, "lr_config.min_lr": 0.3}, schedule("min_lr"), 0.3),
    "lr_config.min_lr_ratio": (
        {"lr_config.min_lr_ratio": 0.3, "lr_config.min_lr": None},
        schedule("min_lr_ratio", "CosineAnnealingLrUpdaterHook"),
        0.3,
    ),
    "lr_config.power": (
        {**POLY, "lr_config.power": 0.3},
        schedule("power", "PolyLrUpdaterHook"),
        0.3,
    ),
    "lr_config.warmup": ({"lr_config": {**WARM, "_delete_": True}}, schedule("warmup"), "exp"),
    "lr_config.warmup_iters": (
        {"lr_config": {**WARM, "_delete_": True}},
        schedule("warmup_iters"),
        5,
    ),
    "lr_config.warmup_ratio": (
        {"lr_config": {**WARM, "warmup_ratio": 0.3, "_delete_": True}},
        schedule("warmup_ratio"),
        0.3,
    ),
    "lr_config.warmup_by_epoch": (
        {"lr_config": {**WARM, "warmup_by_epoch": True, "_delete_": True}},
        schedule("warmup_epochs"),
        5,
    ),
    "momentum_config": ({"momentum_config": MOMENTUM}, has("StepMomentumUpdaterHook"), True),
    # in a run without epochs mmcv would count them all the same, and never do anything
    "momentum_config.by_epoch": (
        {**ITERATIONS, "momentum_config": MOMENTUM},
        schedule("by_epoch", "StepMomentumUpdaterHook"),
        False,
    ),
    "auto_scale_lr.enable": ({"auto_scale_lr.enable": True}, group("lr"), 0.001 / 16),
    "auto_scale_lr.base_batch_size": (
        {"auto_scale_lr": dict(enable=True, base_batch_size=4)},
        group("lr"),
        0.001 / 4,
    ),
    # averages
    "ema": ({"ema": {}}, has("EMAHook"), True),
    "ema.momentum": ({"ema.momentum": 0.3}, hook("EMAHook", "momentum"), 0.3),
    "ema.interval": ({"ema.interval": 3}, hook("EMAHook", "interval"), 3),
    "ema.warm_up": ({"ema.warm_up": 3}, hook("EMAHook", "warm_up"), 3),
    # early stopping
    "early_stopping": (EARLY, lambda run: stopping("patience")(run) is None, False),
    **{
        f"early_stopping.{name}": (
            {**EARLY, f"early_stopping.{name}": value},
            stopping(name),
            value,
        )
        for name, value in (
            ("patience", 2),
            ("monitor", "bbox_mAP_50"),
            ("min_delta", 0.5),
            ("mode", "min"),
        )
    },
    # checkpoints
    "checkpoint_config": ({"checkpoint_config": None}, checkpoints("save_last"), False),
    "checkpoint_config.interval": ({"checkpoint_config.interval": 5}, checkpoints("interval"), 5),
    "checkpoint_config.by_epoch": (
        {"checkpoint_config.by_epoch": False},
        checkpoints("by_epoch"),
        False,
    ),
    "checkpoint_config.save_last": (
        {"checkpoint_config.save_last": False},
        checkpoints("save_last"),
        False,
    ),
    "checkpoint_config.iterations": (
        {"checkpoint_config.iterations": 5},
        checkpoints("iterations"),
        5,
    ),
    "checkpoint_config.minutes": ({"checkpoint_config.minutes": 5}, checkpoints("minutes"), 5),
    "checkpoint_config.max_keep_ckpts": (
        {"checkpoint_config.max_keep_ckpts": 5},
        checkpoints("max_keep_ckpts"),
        5,
    ),
    # evaluation
    "evaluation.interval": ({"evaluation.interval": 5}, evaluation("interval"), 5),
    "evaluation.start": ({"evaluation.start": 5}, evaluation("start"), 5),
    "evaluation.pictures": ({"evaluation.pictures": 0}, evaluation("pictures"), 0),
    "evaluation.save_best": (BEST, evaluation("save_best"), "bbox_mAP_50"),
    "evaluation.rule": (
        {**BEST, "evaluation.rule": "less"},
        lambda run: getattr(run.hook("EvaluationHook"), "rule", None),
        "less",
    ),
    "evaluation.out_dir": ({"evaluation.out_dir": "best"}, evaluation("out_dir"), "best"),
    "evaluation.greater_keys": (
        {"evaluation.greater_keys": ["x"]},
        evaluation("greater_keys"),
        ["x"],
    ),
    "evaluation.less_keys": ({"evaluation.less_keys": ["x"]}, evaluation("less_keys"), ["x"]),
    "evaluation.dynamic_intervals": (
        {"evaluation.dynamic_intervals": [(3, 1)]},
        evaluation("use_dynamic_intervals"),
        True,
    ),
    **{
        f"evaluation.{name}": (
            {f"evaluation.{name}": value},
            lambda run, name=name: run.hook("EvaluationHook").eval_kwargs.get(name),
            value,
        )
        for name, value in (("metric", ["bbox", "proposal"]), ("classwise", True))
    },
    # logs
    "log_config.interval": ({"log_config.interval": 5}, hook("TextLoggerHook", "interval"), 5),
    "log_config.hooks": (
        {"log_config.hooks": [dict(type="TextLoggerHook", by_epoch=False)]},
        hook("TextLoggerHook", "by_epoch"),
        False,
    ),
    # processes
    "dist_params.backend": (
        {"dist_params.backend": "gloo"},
        lambda run: building.process_group(run.cfg, "pytorch")["backend"],
        "gloo",
    ),
    "dist_params.timeout": (
        {"dist_params.timeout": 77.0},
        lambda run: building.process_group(run.cfg, "pytorch")["timeout"].seconds,
        77,
    ),
    "dist_params.port": (
        {"dist_params.port": 777},
        lambda run: building.process_group(run.cfg, "slurm").get("port"),
        777,
    ),
    "faults.hang_timeout": (
        {"faults.hang_timeout": 77.0},
        lambda run: (watchdog.timeout_of(run.cfg), run.train.hang_timeout, run.val.hang_timeout),
        (77.0, 77.0, 77.0),
    ),
    "faults.bad_images": ({"faults.bad_images": 5}, lambda run: run.runner.bad_images.limit, 5),
    "faults.nonfinite_loss": (
        {"faults.nonfinite_loss": "skip"},
        lambda run: run.runner.loss_check.action,
        "skip",
    ),
}

# settings and what is said of them
REFUSED = {
    **{
        f"data.{split}_dataloader.{name}": ({f"data.{split}_dataloader.{name}": value}, message)
        for split in ("train", "val", "test")
        for name, value, message in (
            ("seed", 5, "samples follow the run's seed: use --seed"),
            ("num_gpus", 2, "one process uses one GPU: .*dist_train.sh"),
            ("drop_last", "yes", "must be True or False"),
            ("class_aware_sampler.num_samples", 3, "no setting num_samples.*num_sample_class"),
            ("class_aware_sampler.num_sample_class", 0, "must be a whole number of 1 or more"),
            ("multiprocessing_context", "thread", "must be .*fork, spawn or forkserver"),
        )
    },
    **{
        f"data.{split}_dataloader.{name} there": (
            {f"data.{split}_dataloader.{name}": value},
            f"data.{split}_dataloader.{name}: an evaluation takes every image once",
        )
        for split in ("val", "test")
        for name, value in (
            ("shuffle", True),
            ("drop_last", True),
            ("class_aware_sampler", dict(num_sample_class=1)),
        )
    },
    "two batch sizes": (
        {"data.train_dataloader.samples_per_gpu": 3},
        "data.samples_per_gpu and data.train_dataloader.samples_per_gpu: give one of them",
    ),
    "an old and a new batch size": (
        {
            "data.samples_per_gpu": REMOVED,
            "data.imgs_per_gpu": 3,
            "data.train_dataloader.samples_per_gpu": 3,
        },
        "data.imgs_per_gpu and data.train_dataloader.samples_per_gpu: give one of them",
    ),
    "two batch sizes of an evaluation": (
        {"data.val.samples_per_gpu": 3, "data.val_dataloader.samples_per_gpu": 3},
        "data.val.samples_per_gpu and data.val_dataloader.samples_per_gpu: give one of them",
    ),
    "a batch size of training data": (
        {"data.train.samples_per_gpu": 3},
        "data.train has no setting samples_per_gpu",
    ),
    "a sampler in order": (
        {
            "data.train_dataloader.class_aware_sampler": dict(num_sample_class=1),
            "data.train_dataloader.shuffle": False,
        },
        "class_aware_sampler draws at random: leave shuffle=False out",
    ),
    **{
        f"{name} without epochs": (
            {**ITERATIONS, f"data.train_dataloader.{name}": value},
            f"data.train_dataloader.{name} is for epochs, of which IterBasedRunner has none",
        )
        for name, value in (
            ("class_aware_sampler", dict(num_sample_class=1)),
            ("drop_last", True),
        )
    },
    **{
        f"{name} without epochs": (
            {**ITERATIONS, **more, name: True},
            f"{name}=True: IterBasedRunner has no epochs: leave it out",
        )
        for name, more in (
            ("checkpoint_config.by_epoch", {}),
            ("lr_config.by_epoch", {}),
            ("lr_config.warmup_by_epoch", {}),
            ("momentum_config.by_epoch", {"momentum_config": MOMENTUM}),
        )
    },
    "log_config.hooks.0.by_epoch without epochs": (
        {**ITERATIONS, "log_config.hooks": [dict(type="TextLoggerHook", by_epoch=True)]},
        "log_config.hooks.0.by_epoch=True: IterBasedRunner has no epochs",
    ),
    "evaluation.by_epoch": (
        {"evaluation.by_epoch": False},
        "evaluation.by_epoch=False: .* counts what the runner EpochBasedRunner counts",
    ),
    "evaluation.by_epoch without epochs": (
        {**ITERATIONS, "evaluation.by_epoch": True},
        "evaluation.by_epoch=True: .* counts what the runner IterBasedRunner counts",
    ),
    "evaluation.test_fn": ({"evaluation.test_fn": "f"}, "evaluation.test_fn: .*leave it out"),
    "evaluation.file_client_args": (
        {"evaluation.file_client_args": dict(backend="petrel")},
        "evaluation.file_client_args: checkpoints are written to disks",
    ),
    "ema.resume_from": ({"ema.resume_from": "x.pth"}, "ema.resume_from: .*use --resume-from"),
    "two averages": (
        {"ema": {}, "custom_hooks": [dict(type="ExpMomentumEMAHook")]},
        "ema and custom_hooks.0 both average weights: give one of them",
    ),
    "clipping without a norm": (
        {"optimizer_config": dict(_delete_=True, grad_clip={})},
        "optimizer_config.grad_clip.max_norm is missing",
    ),
    "a hook's type and fp16": (
        {"optimizer_config.type": "OptimizerHook", "fp16": {}},
        "optimizer_config.type and fp16 exclude each other: leave the type out",
    ),
    **{
        f"anomalous parameters with {next(iter(more))}": (
            {"optimizer_config.detect_anomalous_params": True, **more},
            "optimizer_config.detect_anomalous_params looks at plain steps only",
        )
        for more in ({"amp": "float16"}, {"optimizer_config.cumulative_iters": 2})
    },
    "a name of paramwise_cfg": (
        {"optimizer.paramwise_cfg": dict(norm_decay_mul=0.0)},
        "optimizer.paramwise_cfg has no setting norm_decay_mul; .*norm_decay_mult",
    ),
    "a name of custom_keys": (
        {"optimizer.paramwise_cfg": dict(custom_keys={"norm": dict(decay_mul=0.0)})},
        "optimizer.paramwise_cfg.custom_keys.norm has no setting decay_mul; .*decay_mult",
    ),
    "a scale of what": (
        {"auto_scale_lr": dict(_delete_=True, enable=True)},
        "auto_scale_lr.enable needs auto_scale_lr.base_batch_size",
    ),
    "a log without an interval": (
        {"log_config": dict(_delete_=True, hooks=[dict(type="TextLoggerHook")])},
        "log_config.interval is missing",
    ),
    "a log without hooks": (
        {"log_config": dict(_delete_=True, interval=5)},
        "log_config.hooks is missing",
    ),
    "auto_resume": ({"auto_resume": "no"}, "auto_resume must be True or False"),
    "optimizer.fused as a word": ({"optimizer.fused": "no"}, "optimizer.fused must be None or"),
    "an optimizer without fused kernels": (
        {"optimizer": dict(_delete_=True, type="RMSprop", lr=0.1, fused=True)},
        "optimizer.*fused",
    ),
    "cudnn_benchmark as a word": ({"cudnn_benchmark": "no"}, "cudnn_benchmark must be True or"),
    "early_stopping that comes too late": (
        {"early_stopping": dict(patience=5), "runner.max_epochs": 6},
        "early_stopping.patience=5 can have no effect: the run has 6 evaluations",
    ),
    "a name of early_stopping": (
        {**EARLY, "early_stopping.patiense": 3},
        "early_stopping has no setting patiense; did you mean early_stopping.patience",
    ),
    "gpu_ids": ({"gpu_ids": 3}, "gpu_ids must be a list of GPU numbers, not 3"),
}

SAID = {
    "evaluation.tmpdir": ({"evaluation.tmpdir": "x"}, "results never go through files"),
    "evaluation.gpu_collect": ({"evaluation.gpu_collect": True}, "results never go through files"),
    "fp16.coalesce": ({"fp16.coalesce": True}, "DistributedDataParallel exchanges"),
    "fp16.bucket_size_mb": ({"fp16.bucket_size_mb": 8}, "DistributedDataParallel exchanges"),
    "data.persistent_workers": ({"data.persistent_workers": False}, "workers live with the run"),
    **{
        f"data.{split}_dataloader.persistent_workers": (
            {f"data.{split}_dataloader.persistent_workers": False},
            "workers live with the run",
        )
        for split in ("train", "val", "test")
    },
}

# looked at by tests of their own, below or where it is named
ELSEWHERE = {
    "seed": "below",
    "find_unused_parameters": "below",
    "evaluation.broadcast_bn_buffer": "below",
    "device": "tests/mmdet2/test_setup.py",
    "model": "constructors' arguments, tests/backbones and tests/soak/wrong_lines.py",
    "data.train": "constructors' arguments, tests/soak/wrong_lines.py",
    "optimizer.paramwise_cfg.bypass_duplicate": "mmcv's own, of a model with shared weights",
    "optimizer.paramwise_cfg.dcn_offset_lr_mult": "mmcv's own, of deformable convolutions",
    **dict.fromkeys(
        ("optimizer.paramwise_cfg." + name for name in settings.BY_LAYER),
        "mmdet's constructor, tests/moving/test_shapes.py",
    ),
    **dict.fromkeys(settings.PATHS, "tests/mmdet2/test_configs.py"),
}


@pytest.fixture
def assemble(demo_data, tmp_path, monkeypatch):
    """Assemble a training; what of the process it changes is put back."""
    monkeypatch.setattr(mmcv.utils.logging, "logger_initialized", {})
    monkeypatch.chdir(tmp_path)
    logger, runs = logging.getLogger("mmdet"), []
    before = logger.level, list(logger.handlers), cv2.getNumThreads()
    before += (multiprocessing.get_start_method(), torch.backends.cudnn.benchmark)
    messages.say_once.cache_clear()

    def made(settings: dict, **more) -> Run:
        runs.append(Run(demo_data, tmp_path / "work", settings, **more))
        return runs[-1]

    yield made
    for run in runs:
        run.close()
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]
    cv2.setNumThreads(before[2])
    multiprocessing.set_start_method(before[3], force=True)
    torch.backends.cudnn.benchmark = before[4]


def looked_at(run: Run, look):
    """What there is, if what is looked at exists in this run."""
    try:
        return look(run)
    except (AttributeError, KeyError, ValueError):
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", EFFECTS)
def test_a_setting_changes_what_is_built(assemble, key):
    given, look, expected = EFFECTS[key]
    # on a CPU weights have the other layout anyway
    device = "cuda" if key == "channels_last" else "cpu"
    plain = looked_at(assemble({}, device=device), look)
    logging.getLogger("mmdet").handlers.clear()
    mmcv.utils.logging.logger_initialized.clear()
    found = look(assemble(given, device=device))
    assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)
    assert plain != found, "it would be so without the setting"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_have_an_effect_is_refused(assemble, name):
    given, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        assemble(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", SAID)
def test_what_changes_nothing_is_said_to(assemble, key, capsys):
    given, message = SAID[key]
    assemble(given)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("config: ") and message in line and "has no effect" in line
    assemble({})
    assert not capsys.readouterr().err


def test_what_mmdet_sets_itself_is_taken_in_silence(assemble, capsys):
    """Of its base configs and of the configs that it writes into work dirs."""
    assemble(
        {
            **{"data.persistent_workers": True, "evaluation.by_epoch": True, "fp16": None},
            **{"gpu_ids": range(0, 1), "device": "cpu", "auto_resume": False, "seed": None},
            **{"resume_from": None, "momentum_config": None, "ema": None},
            "custom_hooks": [dict(type="ExpMomentumEMAHook", resume_from=None, priority=49)],
            "optimizer_config": dict(_delete_=True),
            "data.val_dataloader.shuffle": False,
        }
    )
    assert not capsys.readouterr().err


def test_every_setting_is_looked_at():
    """Whatever a check of settings, an override or a hook accepts by name."""
    covered = {key.partition(" ")[0] for key in (*EFFECTS, *REFUSED, *SAID, *ELSEWHERE)}

    def takes(section: str, *kinds) -> set[str]:
        found = set()
        for kind in kinds:
            for owner in kind.__mro__[:-1]:
                found |= set(inspect.signature(owner.__init__).parameters)
        return {f"{section}.{name}" for name in found - {"self", "args", "kwargs", "eval_kwargs"}}

    accepted = {*settings.TABLE, *settings.OF_TRAINING, *overrides.TOP_LEVEL, *settings.PATHS}
    accepted |= {f"data.{name}" for name in overrides.DATA}
    accepted |= {f"data.*_dataloader.{name}" for name in settings.LOADER}
    by_constructor = {name for names in settings.PARAMWISE.values() for name in names}
    accepted |= {f"optimizer.paramwise_cfg.{name}" for name in by_constructor}
    accepted |= takes("ema", EMAHook) | takes("checkpoint_config", CheckpointWriter)
    accepted |= takes("optimizer_config", OptimizerHook)
    accepted |= takes("evaluation", EvalHook, DistEvalHook) - {"evaluation.dataloader"}
    accepted -= {"evaluation.file_client", "evaluation.runner"}
    for path in [path for path in accepted if "data.*" in path]:
        accepted.remove(path)
        accepted |= {path.replace("*", split) for split in ("train", "val", "test")}
    missing = {
        path
        for path in accepted
        # a section is what is in it
        if path not in covered and not any(key.startswith(f"{path}.") for key in covered)
    }
    assert {path for path in missing if "*" not in path} == set()
    multiples = {"optimizer.paramwise_cfg.*_mult", "optimizer.paramwise_cfg.custom_keys.*.*"}
    assert missing == multiples  # by their names above


@pytest.mark.filterwarnings("ignore")
def test_the_settings_of_several_processes(assemble, tmp_path, monkeypatch):
    """Of DistributedDataParallel and of the evaluation in it, in a job of one process."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        for wanted in (True, False):
            run = assemble(
                {
                    "find_unused_parameters": wanted,
                    "evaluation.broadcast_bn_buffer": wanted,
                },
                distributed=True,
            )
            assert run.runner.model.find_unused_parameters == wanted
            assert run.hook("EvaluationHook").broadcast_bn_buffer == wanted
    finally:
        torch.distributed.destroy_process_group()


def test_a_port_without_slurm(assemble, capsys):
    """It is Slurm's; init_process_group would not know it."""
    run = assemble({"dist_params.port": 777})
    assert "port" not in building.process_group(run.cfg, "pytorch")
    assert "dist_params.port is for Slurm and not used: MASTER_PORT" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_loaders_own_workers_count(assemble):
    """mmdet takes ``data.workers_per_gpu`` for all loaders, whatever they say."""
    run = assemble({"data.workers_per_gpu": 1, "data.val_dataloader.workers_per_gpu": 0})
    assert (run.train.num_workers, run.val.num_workers, run.test.num_workers) == (1, 0, 1)


def test_settings_of_workers_wait_for_some(assemble):
    """PyTorch refuses the ones and falls over the other."""
    names = dict(prefetch_factor=3, timeout=5, multiprocessing_context="spawn")
    run = assemble({f"data.train_dataloader.{name}": value for name, value in names.items()})
    assert len(list(run.train)) == 8


@pytest.mark.filterwarnings("ignore")
def test_seed_and_gpus_of_a_config_file(demo_data, tmp_path, capsys):
    """Of two places for the seed the command line wins; which GPUs there are it alone says."""
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {TINY!r}\nseed = 7\ngpu_ids = range(0, 3)\n")
    for arguments, seed in (([], 7), (["--seed", "3"], 3)):
        work = tmp_path / str(seed)
        training.main(
            [
                *(str(config), "--work-dir", str(work), "--no-validate", *arguments),
                *options(demo_data, "runner.max_epochs=1", "data.workers_per_gpu=0"),
            ]
        )
        assert torch.load(work / "epoch_1.pth", weights_only=True)["meta"]["seed"] == seed
    assert "gpu_ids=range(0, 3) is not used: --gpu-id" in capsys.readouterr().err
