"""A training assembled from its config: loaders, optimizer, runner, hooks; what mmdet's
``train_detector`` does, with a run that survives its faults (docs/faults.md)."""

import copy

from mmcv import Config
from mmcv.runner import EMAHook, get_dist_info, get_host_info
from mmdet.datasets import replace_ImageToTensor
from mmdet.utils import build_ddp, build_dp, get_root_logger
from torch import nn
from torch.utils.data import Dataset

from models_mm.data.sampling import SeededBatches, SeededSamples
from models_mm.distributed import watchdog
from models_mm.errors import UserError
from models_mm.logs import FILE_ONLY
from models_mm.mmdet2 import work_dirs
from models_mm.mmdet2.building import build_data, built, own_gpu
from models_mm.mmdet2.configs import compatible
from models_mm.mmdet2.console import Console, describe, write
from models_mm.mmdet2.data_files import check_image_files
from models_mm.mmdet2.early_stopping import EarlyStopping
from models_mm.mmdet2.evaluation import EvaluationHook, check_best, check_evaluation
from models_mm.mmdet2.faults import BadImages, LossCheck
from models_mm.mmdet2.loaders import Loader
from models_mm.mmdet2.losses import reduce_at_once
from models_mm.mmdet2.optimization import IMAGES, optimizer_of, scale_lr, step_settings
from models_mm.mmdet2.snapshots import CheckpointWriter
from models_mm.mmdet2.training_loop import EpochLoop, IterationLoop, TrainingLoop

LOOPS = {"EpochBasedRunner": EpochLoop, "IterBasedRunner": IterationLoop}  # by ``runner.type``


def train_detector(
    model: nn.Module,
    loaders: list[Loader],
    validation: Loader | None,
    cfg: Config,
    distributed: bool,
    timestamp: str,
    meta: dict,
    verbose: bool = True,
) -> None:
    """Train a detector as its config says; ``cfg.resume_from`` is where it goes on.

    The terminal shows the log, or without ``verbose`` what :mod:`models_mm.mmdet2.console` does.
    """
    cfg = compatible(cfg)
    loop = assemble(model, loaders, validation, cfg, distributed, meta)
    loop.timestamp = timestamp  # the names of .log and .log.json
    if cfg.get("resume_from"):
        loop.resume(cfg.resume_from)
    elif cfg.get("load_from"):
        loop.load_checkpoint(cfg.load_from)
    if get_dist_info()[0] == 0:
        work_dirs.clear(loop)  # not before everything is known to fit
    workflow = [tuple(flow) for flow in cfg.workflow]
    log_start(loop, workflow)
    if verbose or get_dist_info()[0] > 0:
        loop.run(loaders, workflow)
        return
    write("\n".join(describe(loop, cfg, loaders, validation)))
    console = Console((cfg.get("log_config") or {}).get("interval", 10), loop.by_epoch)
    loop.register_hook(console, "VERY_LOW")  # after the other loggers
    try:
        loop.run(loaders, workflow)
    finally:
        console.close()


def assemble(
    model: nn.Module,
    loaders: list[Loader],
    validation: Loader | None,
    cfg: Config,
    distributed: bool,
    meta: dict,
) -> TrainingLoop:
    """The loop of a training, with its optimizer and all hooks.

    Args:
        model: the detector, not wrapped.
        loaders: of the workflow; they take this process's share.
        validation: the loader of the evaluation, if there is one.
        cfg: the config, :func:`compatible`.
        distributed: there is a process group.
        meta: of the checkpoints.
    """
    logger = get_root_logger(log_level=cfg.log_level)
    for loader in loaders:
        share_training(loader, cfg, distributed)
    reduce_at_once(model)
    if distributed:
        model = build_ddp(
            model,
            cfg.device,
            device_ids=own_gpu(cfg),
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
    else:
        model = build_dp(model, cfg.device, device_ids=cfg.gpu_ids)
    scale_lr(cfg, logger)
    loop = build_loop(cfg, model, len(loaders[0].dataset), logger=logger, meta=meta)
    register_hooks(loop, cfg)
    if validation is not None:
        validation.take_share(dist=distributed, shuffle=False)
        loop.register_hook(evaluation_hook(validation, cfg, model.module), "LOW")
    return loop


def log_start(loop: TrainingLoop, workflow: list[tuple[str, int]]) -> None:
    """Log what mmcv's runners log before they begin."""
    length = f"{loop.max_epochs} epochs" if loop.by_epoch else f"{loop.max_iters} iters"
    start = "Start running, host: %s, work_dir: %s"
    loop.logger.info(start, get_host_info(), loop.work_dir, extra=FILE_ONLY)
    loop.logger.info("Hooks will be executed in the following order:\n%s", loop.get_hook_info())
    loop.logger.info("workflow: %s, max: %s", workflow, length, extra=FILE_ONLY)


def build_loop(cfg: Config, model: nn.Module, images: int, **settings) -> TrainingLoop:
    """The loop of a config, without hooks.

    Args:
        cfg: the config.
        model: the detector, wrapped.
        images: number of images in the training data.
        settings: of mmcv's runner.

    Raises:
        UserError: a setting that there is not.
    """
    length = dict(cfg.runner)
    kind = length.pop("type")
    if kind not in LOOPS:
        raise UserError(f"runner.type {kind}: known are {', '.join(LOOPS)}")
    faults, checkpoints = cfg.get("faults") or {}, cfg.get("checkpoint_config")
    checkpoints = dict(save_last=False) if checkpoints is None else checkpoints
    return LOOPS[kind](
        step=step_settings(cfg),
        checkpoints=built("checkpoint_config", lambda: CheckpointWriter(**checkpoints)),
        bad_images=BadImages(images, faults.get("bad_images", 0.01)),
        loss_check=LossCheck(faults.get("nonfinite_loss", "stop")),
        model=model,
        optimizer=optimizer_of(model, cfg.optimizer),
        work_dir=cfg.work_dir,
        **length,
        **settings,
    )


def register_hooks(loop: TrainingLoop, cfg: Config) -> None:
    """What the config asks for by name: schedules, averages, loggers, hooks of one's own."""
    stepper = dict(cfg.optimizer_config) if loop.step is None else None
    momentum = cfg.get("momentum_config")
    if momentum and not loop.by_epoch:  # mmcv does so for all other hooks
        momentum.setdefault("by_epoch", False)
    built(
        "lr_config, optimizer_config, log_config or custom_hooks",
        lambda: loop.register_training_hooks(
            cfg.get("lr_config"),
            stepper,
            None,
            cfg.get("log_config"),
            momentum,
            custom_hooks_config=cfg.get("custom_hooks"),
        ),
    )
    if cfg.get("ema") is not None:
        # before the evaluation and the checkpoints, which take the averaged weights
        loop.register_hook(built("ema", lambda: EMAHook(**cfg.ema)), "ABOVE_NORMAL")


def start_loaders(cfg: Config, validate: bool) -> tuple[list[Loader], Loader | None]:
    """The loaders of the workflow's data sets and of the evaluation, their data workers started.

    Raises:
        UserError: a data set that cannot be built.
    """
    cfg = compatible(cfg)
    limit = watchdog.timeout_of(cfg)
    datasets = {"data.train": build_data(cfg.data.train, "train")}
    if len(cfg.get("workflow", ())) == 2:
        datasets["data.val as the workflow's"] = validation_with_training_pipeline(cfg)
    of_val = {"samples_per_gpu": 1, "workers_per_gpu": 2, **cfg.data.get("val_dataloader", {})}
    if validate:
        if of_val["samples_per_gpu"] > 1:
            cfg.data.val.pipeline = replace_ImageToTensor(cfg.data.val.pipeline)
        validation = build_data(cfg.data.val, "val", dict(test_mode=True))
        check_image_files(validation)  # not after hours of training
    # all data first: nothing checks yet that a data worker which has started is alive
    settings = {"samples_per_gpu": IMAGES, "workers_per_gpu": 2, **cfg.data.train_dataloader}
    loaders = [
        Loader(name, SeededSamples(data), settings, limit) for name, data in datasets.items()
    ]
    return loaders, Loader("data.val", validation, of_val, limit) if validate else None


def validation_with_training_pipeline(cfg: Config) -> Dataset:
    """The data of a workflow that also computes validation losses."""
    val = copy.deepcopy(cfg.data.val)
    train = cfg.data.train
    val.pipeline = train.get("pipeline") or train.dataset.pipeline
    return build_data(val, "val")


def share_training(loader: Loader, cfg: Config, distributed: bool) -> None:
    """Give a loader this process's samples, which do not depend on what was loaded before."""
    kind, rank = cfg.runner["type"], get_dist_info()[0]
    built(
        "data.train_dataloader",
        lambda: loader.take_share(
            lambda batches: SeededBatches(batches, cfg.seed, rank, kind == "IterBasedRunner"),
            dist=distributed,
            seed=cfg.seed,
            runner_type=kind,
        ),
    )


def evaluation_hook(loader: Loader, cfg: Config, model: nn.Module) -> EvaluationHook:
    """The evaluation of ``data.val`` during the training.

    Raises:
        UserError: options that the evaluation does not know, or a metric that there cannot be.
    """
    options = {**cfg.get("evaluation", {}), "by_epoch": cfg.runner["type"] != "IterBasedRunner"}
    hook = built("evaluation", lambda: EvaluationHook(loader, **options))
    names = {"metric": "evaluation.metric", "option": "evaluation."}
    check_evaluation(loader.dataset, model, hook.eval_kwargs, names)
    check_best(loader.dataset, hook.save_best, hook.eval_kwargs)
    if cfg.get("early_stopping") is not None:
        stopping = built("early_stopping", lambda: EarlyStopping(**cfg.early_stopping))
        name = "early_stopping.monitor"
        check_best(loader.dataset, stopping.monitor, hook.eval_kwargs, name)
        hook.early_stopping = stopping
    return hook
