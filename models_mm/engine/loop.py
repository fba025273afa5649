"""A training assembled from its config: loaders, optimizer, runner, hooks; what mmdet's
``train_detector`` does, with a run that survives its faults (docs/faults.md)."""

import os
from dataclasses import dataclass

from mmcv import Config
from mmcv.runner import (
    EMAHook,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    OptimizerHook,
    get_dist_info,
)
from mmdet.core import build_optimizer
from mmdet.datasets import build_dataloader, build_dataset, replace_ImageToTensor
from mmdet.utils import build_ddp, build_dp, compat_cfg, get_root_logger
from torch import nn
from torch.utils.data import DataLoader, Dataset

from models_mm.datasets.samples import Batches, Samples
from models_mm.engine import preemption
from models_mm.engine.evaluation import PatientEvalHook, QuietEvalHook, check_evaluation
from models_mm.engine.hooks import (
    BadImagesHook,
    ExactCheckpointHook,
    FiniteLossHook,
    ResumeHook,
    checkpoint,
    finite_loss,
)
from models_mm.engine.runners import build_runner
from models_mm.engine.setup import built


def train_detector(
    model: nn.Module,
    datasets: list[Dataset],
    cfg: Config,
    distributed: bool,
    validate: bool,
    timestamp: str,
    meta: dict,
) -> None:
    """Train a detector as its config says; ``cfg.resume_from`` is where it goes on."""
    cfg = compat_cfg(cfg)
    logger = get_root_logger(log_level=cfg.log_level)
    loaders = [training_loader(dataset, cfg, distributed) for dataset in datasets]
    if distributed:
        model = build_ddp(
            model,
            cfg.device,
            device_ids=[int(os.environ["LOCAL_RANK"])],
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
    else:
        model = build_dp(model, cfg.device, device_ids=cfg.gpu_ids)
    scale_lr(cfg, logger)
    runner = build_runner(
        cfg.runner,
        logger,
        model=model,
        optimizer=build_optimizer(model, cfg.optimizer),
        work_dir=cfg.work_dir,
        meta=meta,
    )
    runner.timestamp = timestamp  # the names of .log and .log.json
    runner.register_training_hooks(
        cfg.lr_config,
        optimizer_hook(cfg, distributed),
        None,
        cfg.log_config,
        cfg.get("momentum_config"),
        custom_hooks_config=cfg.get("custom_hooks"),
    )
    if cfg.get("ema"):
        # before the evaluation and the checkpoints, which take the averaged weights
        runner.register_hook(built("ema", lambda: EMAHook(**cfg.ema)), "ABOVE_NORMAL")
    faults = cfg.get("faults", {})
    runner.register_hook(BadImagesHook(len(datasets[0]), faults.get("bad_images", 0.01)))
    runner.register_hook(FiniteLossHook(faults.get("nonfinite_loss", "stop")), finite_loss.PRIORITY)
    settings = cfg.checkpoint_config or {}
    writer = built("checkpoint_config", lambda: ExactCheckpointHook(**settings))
    runner.register_hook(writer, checkpoint.PRIORITY)
    if validate:
        runner.register_hook(evaluation_hook(cfg, distributed, model.module), "LOW")
    runner.register_hook(ResumeHook(), "LOWEST")
    if cfg.get("resume_from"):
        runner.resume(cfg.resume_from)
    elif cfg.get("load_from"):
        runner.load_checkpoint(cfg.load_from)
    runner.run(loaders, [tuple(flow) for flow in cfg.workflow])


@dataclass
class WorkerStart:
    """mmdet's start of a data worker, which then leaves the job's signals to its process."""

    start: object

    def __call__(self, worker: int) -> None:
        preemption.live_with_parent()
        if self.start is not None:
            self.start(worker)


def training_loader(dataset: Dataset, cfg: Config, distributed: bool) -> DataLoader:
    """mmdet's loader, by samples that do not depend on what was loaded before."""
    defaults = dict(samples_per_gpu=2, workers_per_gpu=2, num_gpus=len(cfg.gpu_ids))
    settings = {**defaults, **cfg.data.get("train_dataloader", {})}
    kind = cfg.runner["type"]
    plain = build_dataloader(dataset, dist=distributed, seed=cfg.seed, runner_type=kind, **settings)
    endless = kind == "IterBasedRunner"
    batches = Batches(plain.batch_sampler, cfg.seed, get_dist_info()[0], endless)
    return DataLoader(
        Samples(dataset),
        batch_sampler=batches,
        num_workers=plain.num_workers,
        collate_fn=plain.collate_fn,
        pin_memory=plain.pin_memory,
        timeout=plain.timeout,
        worker_init_fn=WorkerStart(plain.worker_init_fn),
        multiprocessing_context=plain.multiprocessing_context,
        # of its own: starting to load is not to change what the model draws
        generator=batches.generator,
        prefetch_factor=plain.prefetch_factor,
        persistent_workers=plain.persistent_workers,
    )


def optimizer_hook(cfg: Config, distributed: bool):
    """Mixed precision and gradient accumulation where the config asks for them."""
    settings = dict(cfg.optimizer_config)
    if cfg.get("fp16") is not None:
        kinds = (Fp16OptimizerHook, GradientCumulativeFp16OptimizerHook)
        settings |= dict(**cfg.fp16, distributed=distributed)
    elif "type" in settings:
        return settings
    else:
        kinds = (OptimizerHook, GradientCumulativeOptimizerHook)
    kind = kinds[accumulated(cfg) > 1]
    if kind is kinds[0]:
        settings.pop("cumulative_iters", None)
    return built("optimizer_config", lambda: kind(**settings))


def accumulated(cfg: Config) -> int:
    """Iterations whose gradients are added up for one step."""
    return (cfg.optimizer_config or {}).get("cumulative_iters", 1)


def scale_lr(cfg: Config, logger) -> None:
    """Scale the learning rate linearly to the images of one step, if the config asks for it."""
    wanted = cfg.get("auto_scale_lr") or {}
    if not wanted.get("enable"):
        return
    here = get_dist_info()[1] * cfg.data.train_dataloader.samples_per_gpu * accumulated(cfg)
    scaled = cfg.optimizer.lr * here / wanted["base_batch_size"]
    logger.info(
        f"learning rate {cfg.optimizer.lr:g} for {wanted['base_batch_size']} images a step has "
        f"become {scaled:g} for {here}"
    )
    cfg.optimizer.lr = scaled


def evaluation_hook(cfg: Config, distributed: bool, model: nn.Module):
    """The evaluation of ``data.val`` during the training.

    Raises:
        UserError: options that the evaluation does not know, or a metric that there cannot be.
    """
    settings = {"samples_per_gpu": 1, "workers_per_gpu": 2, **cfg.data.get("val_dataloader", {})}
    if settings["samples_per_gpu"] > 1:
        cfg.data.val.pipeline = replace_ImageToTensor(cfg.data.val.pipeline)
    dataset = build_dataset(cfg.data.val, dict(test_mode=True))
    loader = build_dataloader(dataset, dist=distributed, shuffle=False, **settings)
    options = {**cfg.get("evaluation", {}), "by_epoch": cfg.runner["type"] != "IterBasedRunner"}
    if not distributed:  # what concerns several processes only
        for name in ("tmpdir", "gpu_collect", "broadcast_bn_buffer"):
            options.pop(name, None)
    hook = (PatientEvalHook if distributed else QuietEvalHook)(loader, **options)
    names = {"metric": "evaluation.metric", "option": "evaluation."}
    check_evaluation(dataset, model, hook.eval_kwargs, names)
    return hook
