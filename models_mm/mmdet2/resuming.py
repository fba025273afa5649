"""How a run goes on from a checkpoint, exactly as if it had never stopped."""

import math
from pathlib import Path

import torch
from mmcv.runner import BaseRunner
from mmcv.runner.hooks import EvalHook, LoggerHook

from models_mm import randomness
from models_mm.checkpoints.state import check_optimizer, check_state
from models_mm.errors import CheckpointError
from models_mm.mmdet2.loaders import Loader
from models_mm.mmdet2.snapshots import swap_averages

# Settings of an optimizer that are of the device and not of the training.
KERNELS = ("fused", "foreach")


def resume(runner: BaseRunner, path: str, with_optimizer: bool = True) -> dict:
    """Take weights, optimizer and place from a checkpoint: ours, or mmcv's after an epoch.

    Returns:
        What :func:`restore` gives back later.

    Raises:
        CheckpointError: it cannot be read, is of another model, or holds weights only.
    """
    found = runner.load_checkpoint(path, map_location="cpu")
    meta = found.get("meta") or {}
    if not isinstance(meta, dict) or not {"epoch", "iter", "optimizer"} <= {*meta, *found}:
        raise CheckpointError(
            f"{path} holds weights but no state of a training to resume; to start a new "
            "training from its weights, use --cfg-options load_from=..."
        )
    check_state(found, path)
    if with_optimizer:
        check_optimizer(runner.optimizer, found["optimizer"], path)
        load_optimizer(runner.optimizer, found["optimizer"])
    runner.meta = {
        **(runner.meta or {}),
        **{k: meta[k] for k in ("hook_msgs", "fp16") if meta.get(k) is not None},
    }
    forget_best_elsewhere(runner)
    progress = found.get("progress") or {"inner_iter": 0, "unevaluated": False}
    progress.setdefault("world_size", len(meta.get("gpu_ids", ())) or runner.world_size)
    runner._epoch, runner._iter = meta["epoch"], meta["iter"]
    runner._inner_iter = progress["inner_iter"]
    runner.logger.info(
        f"resumed {path}: epoch {runner.epoch + 1}, {runner.inner_iter} iterations into it"
        if runner.by_epoch
        else f"resumed {path}: iteration {runner.iter}"
    )
    averages = {k: v for k, v in found["state_dict"].items() if k.startswith("ema_")}
    return {**progress, "ema": averages}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load the state of an optimizer, which may have had other kernels: on a CPU, or before."""
    own = [{k: group[k] for k in KERNELS if k in group} for group in optimizer.param_groups]
    saved = [
        {**group, **kernels} for group, kernels in zip(state["param_groups"], own, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": saved})


def forget_best_elsewhere(runner: BaseRunner) -> None:
    """Leave alone what a checkpoint calls the best one before and is not in this work dir: the
    evaluation's hook deletes it when there is a better one."""
    messages = runner.meta.get("hook_msgs", {})
    work_dir = Path(runner.work_dir)
    elsewhere = [getattr(hook, "out_dir", None) for hook in runner.hooks]
    folders = [work_dir, *(Path(folder, work_dir.name) for folder in elsewhere if folder)]
    best = messages.get("best_ckpt")
    if best is not None and not (
        isinstance(best, str)
        and Path(best).parent.resolve() in [folder.resolve() for folder in folders]
    ):
        runner.meta["hook_msgs"] = {k: v for k, v in messages.items() if k != "best_ckpt"}


def translate_place(runner: BaseRunner, progress: dict, loader: Loader) -> None:
    """Find the image at which to go on, if iterations had more or fewer images before."""
    now = (runner.world_size, runner.samples_per_gpu)
    before = (progress["world_size"], progress.get("samples_per_gpu", now[1]))
    if before != now:
        ratio = math.prod(before) / math.prod(now)
        runner._iter = int(runner.iter * ratio)
        runner._inner_iter = int(runner.inner_iter * ratio)
        runner.logger.warning(
            f"{before[0]} processes x {before[1]} images have become {now[0]} x {now[1]}: the "
            "run goes on at the same image, but is no longer the one that it would have been"
        )
    if runner.by_epoch:
        runner._inner_iter = min(runner.inner_iter, len(loader))  # all of it may be done
        # what schedules and the estimate of the end count by
        runner._iter = runner.epoch * len(loader) + runner.inner_iter


def restore(runner: BaseRunner, progress: dict) -> None:
    """Give back the state of the run before, when all hooks have prepared themselves.

    Raises:
        CheckpointError: something in it is not of this model.
    """
    model = runner.bare_model()
    buffers, parameters = dict(model.named_buffers()), dict(model.named_parameters())
    with torch.no_grad():
        for name, value in progress["ema"].items():
            if name in buffers:  # EMA's hook has just registered them
                check_shape(name, value, buffers[name])
                buffers[name].copy_(value)
    if progress.get("averaged") and not runner.by_epoch:
        swap_averages(runner)  # as the next epoch would, of which there is none
    for name, value in progress.get("gradients", {}).items():
        check_shape(f"progress.gradients.{name}", value, parameters.get(name))
        parameters[name].grad = value.to(parameters[name].device)
    if progress["unevaluated"]:
        evaluate(runner)
    restore_attributes(runner, progress.get("attributes") or [])
    states = progress.get("random_states") or []
    if runner.rank < len(states):
        randomness.restore(states[runner.rank])


def check_shape(name: str, value: torch.Tensor, own: torch.Tensor | None) -> None:
    """Refuse what a checkpoint has for a tensor of the model, and has not its shape.

    Raises:
        CheckpointError: its shape is another, or the model has no such tensor.
    """
    if own is None or value.shape != own.shape:
        found = "nothing" if own is None else f"{tuple(own.shape)}"
        raise CheckpointError(f"{name} of the checkpoint is {tuple(value.shape)}, ours is {found}")


def restore_attributes(runner: BaseRunner, of_ranks: list[dict]) -> None:
    """Give modules back what they carry outside their state dict.

    Raises:
        CheckpointError: the model has no such attribute, or one of another type.
    """
    if runner.rank >= len(of_ranks):
        return
    modules = dict(runner.bare_model().named_modules())
    for name, value in of_ranks[runner.rank].items():
        module, _, attribute = name.rpartition(".")
        owner = modules.get(module)
        known = attribute in getattr(owner, "resumable", ())
        if not known or type(getattr(owner, attribute)) is not type(value):
            raise CheckpointError(f"progress.attributes: {name} is not of this model")
        setattr(owner, attribute, value)


def evaluate(runner: BaseRunner) -> None:
    """Make the evaluation that the checkpoint was written before, and log it."""
    for hook in runner.hooks:
        if not isinstance(hook, EvalHook):
            continue
        # as it was then: the epoch or iteration is complete and not yet counted
        counter = "_epoch" if hook.by_epoch else "_iter"
        setattr(runner, counter, getattr(runner, counter) - 1)
        runner.mode = "train"
        hook._do_evaluate(runner)
        for logger in runner.hooks:
            if isinstance(logger, LoggerHook) and runner.log_buffer.ready:
                logger.log(runner)
        runner.log_buffer.clear_output()
        setattr(runner, counter, getattr(runner, counter) + 1)
