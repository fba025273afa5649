"""A training assembled from its config: loaders, optimizer, runner, hooks; what mmdet's
``train_detector`` does, with a run that survives its faults (docs/faults.md)."""

import copy
import os

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
from mmdet.datasets import replace_ImageToTensor
from mmdet.utils import build_ddp, build_dp, get_root_logger
from torch import nn
from torch.utils.data import Dataset

from models_mm.datasets.images import check_image_files
from models_mm.datasets.samples import Batches, Samples
from models_mm.engine import watchdog
from models_mm.engine.configs import compatible
from models_mm.engine.evaluation import PatientEvalHook, QuietEvalHook, check_best, check_evaluation
from models_mm.engine.hooks import (
    BadImagesHook,
    ExactCheckpointHook,
    FiniteLossHook,
    ResumeHook,
    checkpoint,
    finite_loss,
)
from models_mm.engine.loading import Loader
from models_mm.engine.runners import EpochRunner, IterRunner, build_runner
from models_mm.engine.setup import build_data, built
from models_mm.errors import UserError

IMAGES = 2  # in a batch, where the config does not say


def train_detector(
    model: nn.Module,
    loaders: list[Loader],
    validation: Loader | None,
    cfg: Config,
    distributed: bool,
    timestamp: str,
    meta: dict,
) -> None:
    """Train a detector as its config says; ``cfg.resume_from`` is where it goes on."""
    cfg = compatible(cfg)
    runner = assemble(model, loaders, validation, cfg, distributed, meta)
    runner.timestamp = timestamp  # the names of .log and .log.json
    if cfg.get("resume_from"):
        runner.resume(cfg.resume_from)
    elif cfg.get("load_from"):
        runner.load_checkpoint(cfg.load_from)
    runner.run(loaders, [tuple(flow) for flow in cfg.workflow])


def assemble(
    model: nn.Module,
    loaders: list[Loader],
    validation: Loader | None,
    cfg: Config,
    distributed: bool,
    meta: dict,
) -> EpochRunner | IterRunner:
    """The runner of a training, with its optimizer and all hooks.

    Args:
        model: the detector, not wrapped.
        loaders: of the workflow; they get this process's share.
        validation: the evaluation's, if there is one.
        cfg: the config, :func:`compatible`.
        distributed: there is a process group.
        meta: of the checkpoints.
    """
    logger = get_root_logger(log_level=cfg.log_level)
    for loader in loaders:
        share_training(loader, cfg, distributed)
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
        optimizer=optimizer_of(model, cfg.optimizer),
        work_dir=cfg.work_dir,
        meta=meta,
    )
    register_hooks(runner, cfg, distributed)
    if cfg.get("ema") is not None:
        # before the evaluation and the checkpoints, which take the averaged weights
        runner.register_hook(built("ema", lambda: EMAHook(**cfg.ema)), "ABOVE_NORMAL")
    faults = cfg.get("faults") or {}
    runner.register_hook(BadImagesHook(len(loaders[0].dataset), faults.get("bad_images", 0.01)))
    runner.register_hook(FiniteLossHook(faults.get("nonfinite_loss", "stop")), finite_loss.PRIORITY)
    settings = cfg.get("checkpoint_config")
    settings = dict(save_last=False) if settings is None else settings
    writer = built("checkpoint_config", lambda: ExactCheckpointHook(**settings))
    runner.register_hook(writer, checkpoint.PRIORITY)
    if validation is not None:
        validation.share(dist=distributed, shuffle=False)
        runner.register_hook(evaluation_hook(validation, cfg, distributed, model.module), "LOW")
    runner.register_hook(ResumeHook(), "LOWEST")
    return runner


def register_hooks(runner, cfg: Config, distributed: bool) -> None:
    """What the config asks for by name: schedule, optimizer step, loggers, hooks of one's own."""
    momentum = cfg.get("momentum_config")
    if momentum and not runner.by_epoch:  # mmcv does so for all other hooks
        momentum.setdefault("by_epoch", False)
    built(
        "lr_config, optimizer_config, log_config or custom_hooks",
        lambda: runner.register_training_hooks(
            cfg.get("lr_config"),
            optimizer_hook(cfg, distributed),
            None,
            cfg.get("log_config"),
            momentum,
            custom_hooks_config=cfg.get("custom_hooks"),
        ),
    )


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
    # all data first: nobody looks yet whether a worker that has started still lives
    settings = {"samples_per_gpu": IMAGES, "workers_per_gpu": 2, **cfg.data.train_dataloader}
    loaders = [Loader(name, Samples(data), settings, limit) for name, data in datasets.items()]
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
        lambda: loader.share(
            lambda batches: Batches(batches, cfg.seed, rank, kind == "IterBasedRunner"),
            dist=distributed,
            seed=cfg.seed,
            runner_type=kind,
        ),
    )


def optimizer_of(model: nn.Module, settings: dict):
    """The optimizer of a config.

    Raises:
        UserError: it cannot be built, or decays learning rates by layers that it does not know.
    """

    def build():
        try:
            return build_optimizer(model, settings)
        except NotImplementedError as error:
            backbone = type(getattr(model, "module", model).backbone).__name__
            raise UserError(
                f"optimizer.constructor {settings['constructor']} knows the layers of ConvNeXt, "
                f"and none of {backbone}: leave constructor and paramwise_cfg out"
            ) from error

    return built("optimizer", build)


def optimizer_hook(cfg: Config, distributed: bool):
    """Mixed precision and gradient accumulation where the config asks for them."""
    settings = dict(cfg.optimizer_config)
    if cfg.get("fp16") is not None:
        kinds = (Fp16OptimizerHook, GradientCumulativeFp16OptimizerHook)
        settings |= dict(**cfg.fp16, distributed=distributed)
        if isinstance(settings.get("loss_scale"), int):
            settings["loss_scale"] = float(settings["loss_scale"])  # mmcv knows floats only
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
    if cfg.optimizer.get("lr") is None:
        raise UserError("auto_scale_lr needs optimizer.lr in the config")
    images = cfg.data.train_dataloader.get("samples_per_gpu", IMAGES)
    here = get_dist_info()[1] * images * accumulated(cfg)
    scaled = cfg.optimizer.lr * here / wanted["base_batch_size"]
    logger.info(
        f"learning rate {cfg.optimizer.lr:g} for {wanted['base_batch_size']} images a step has "
        f"become {scaled:g} for {here}"
    )
    cfg.optimizer.lr = scaled


def evaluation_hook(loader: Loader, cfg: Config, distributed: bool, model: nn.Module):
    """The evaluation of ``data.val`` during the training.

    Raises:
        UserError: options that the evaluation does not know, or a metric that there cannot be.
    """
    options = {**cfg.get("evaluation", {}), "by_epoch": cfg.runner["type"] != "IterBasedRunner"}
    if not distributed:  # what concerns several processes only
        for name in ("tmpdir", "gpu_collect", "broadcast_bn_buffer"):
            options.pop(name, None)
    kind = PatientEvalHook if distributed else QuietEvalHook
    hook = built("evaluation", lambda: kind(loader, **options))
    names = {"metric": "evaluation.metric", "option": "evaluation."}
    check_evaluation(loader.dataset, model, hook.eval_kwargs, names)
    check_best(loader.dataset, hook.save_best, hook.eval_kwargs)
    return hook
