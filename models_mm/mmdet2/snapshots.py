"""The checkpoints of a run: when one is written, and what it holds."""

import time
from contextlib import contextmanager
from pathlib import Path

import torch
from mmcv.runner import BaseRunner
from mmcv.runner.hooks import EvalHook

from models_mm import randomness
from models_mm.checkpoints import write_checkpoint
from models_mm.checkpoints.runs import point_latest, prune, sweep
from models_mm.distributed import ranks, watchdog
from models_mm.errors import UserError
from models_mm.logs import FILE_ONLY
from models_mm.mmdet2.faults import last_good


class CheckpointWriter:
    """Writes the checkpoints of a run; ``checkpoint_config`` of a config has its arguments.

    Args:
        interval: a regular checkpoint every so many epochs (iterations without ``by_epoch``); -1:
            none before the end.
        by_epoch: what ``interval`` counts (default: what the runner counts).
        save_last: a regular one at the end of the run too.
        iterations: an interim checkpoint every so many iterations.
        minutes: an interim checkpoint after so many minutes without one.
        max_keep_ckpts: regular checkpoints to keep; -1: all. Of interim ones two are kept.
    """

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool | None = None,
        save_last: bool = True,
        iterations: int | None = None,
        minutes: float | None = None,
        max_keep_ckpts: int = -1,
    ):
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_last = save_last
        self.iterations = iterations
        self.minutes = minutes
        self.max_keep_ckpts = max_keep_ckpts
        self.written = time.monotonic()

    def prepare(self, runner: BaseRunner) -> None:
        """Delete what earlier writes that were killed have left."""
        if self.by_epoch is None:
            self.by_epoch = runner.by_epoch
        if runner.rank == 0:
            sweep(runner.work_dir)

    def is_late(self) -> bool:
        """Whether ``minutes`` have passed, on this rank's clock."""
        return self.minutes is not None and time.monotonic() - self.written > 60 * self.minutes

    def after_iteration(self, runner: BaseRunner, wanted: bool) -> None:
        """Write the checkpoint that is due after this iteration, if one is.

        Args:
            runner: the training; the iteration is complete and not counted yet.
            wanted: one has to be written in any case; the same on all ranks.
        """
        done = runner.iter + 1
        if not self.by_epoch and self._is_regular(done, runner.max_iters):
            self.write(runner, f"iter_{done}.pth", epoch_ended=False)
        elif wanted or (self.iterations and done % self.iterations == 0):
            self.write(runner, f"interim_{done}.pth", epoch_ended=False)

    def after_epoch(self, runner: BaseRunner, wanted: bool) -> None:
        """Write the checkpoint that is due after this epoch, if one is; as after iterations.

        An evaluation may take long, and a run may be killed in it: one is written before it.
        """
        done = runner.epoch + 1
        if self.by_epoch and self._is_regular(done, runner.max_epochs):
            self.write(runner, f"epoch_{done}.pth", epoch_ended=True)
        elif wanted or evaluation_is_due(runner, epoch_ended=True):
            self.write(runner, f"interim_{runner.iter}.pth", epoch_ended=True)

    def at_early_end(self, runner: BaseRunner) -> None:
        """Write the last checkpoint of a run of iterations that ends early, unless it is there.

        After an epoch there is one: :meth:`after_epoch` writes it before the evaluation.
        """
        done = runner.iter + 1
        last = Path(runner.meta.get("hook_msgs", {}).get("last_ckpt", ""))
        if last.name not in (f"iter_{done}.pth", f"interim_{done}.pth"):
            self.write(runner, f"iter_{done}.pth", epoch_ended=False)

    def _is_regular(self, done: int, last: int) -> bool:
        every = self.interval > 0 and done % self.interval == 0
        return every or (self.save_last and done == last)

    def write(self, runner: BaseRunner, name: str, epoch_ended: bool) -> None:
        """Write a checkpoint, then point ``latest.pth`` at it, then delete old ones."""
        path = Path(runner.work_dir) / name
        runner.loss_check.look_back(runner, now=True)
        content = snapshot(runner, epoch_ended)
        messages = {**runner.meta.get("hook_msgs", {}), "last_ckpt": str(path)}
        written = runner.meta.get("written", 0) + 1
        if runner.rank == 0:
            with watchdog.paused(f"writing {name}"):
                check_finite(content["state_dict"], runner)
                content["meta"] |= {"hook_msgs": messages, "written": written}
                write_checkpoint(content, path)
                point_latest(path)
                prune(runner.work_dir, self.max_keep_ckpts, runner.meta.get("run"))
        runner.meta |= {"hook_msgs": messages, "written": written}
        watchdog.barrier(f"checkpoint {name}")
        self.written = time.monotonic()
        runner.logger.info(f"wrote {path}", extra=FILE_ONLY)


def snapshot(runner: BaseRunner, epoch_ended: bool) -> dict:
    """Everything that the next iteration depends on; every rank calls it, rank 0 uses it.

    ``progress`` is the part that mmcv's checkpoints do not have: the place in the epoch, the random
    states of all ranks, and gradients that wait for their step.

    Args:
        runner: the training; its epoch or iteration is complete and not counted yet.
        epoch_ended: an epoch is complete, not an iteration within one.
    """
    iteration = runner.iter + (not epoch_ended)
    states = ranks.gather(randomness.capture())
    if runner.step:
        runner.step.keep_scale(runner)
    # at the end of an epoch EMA's hook has put the averages into the model by itself
    with averaged_weights(runner, swap=not epoch_ended):
        return dict(
            meta={**runner.meta, "epoch": runner.epoch + epoch_ended, "iter": iteration},
            state_dict=weights(runner),
            optimizer=runner.optimizer.state_dict(),
            progress=dict(
                inner_iter=0 if epoch_ended else runner.inner_iter + 1,
                world_size=runner.world_size,
                samples_per_gpu=runner.samples_per_gpu,
                random_states=states,
                attributes=ranks.gather(attributes(runner)),
                unevaluated=evaluation_is_due(runner, epoch_ended),
                averaged=True,
                gradients=unused_gradients(runner, iteration),
            ),
        )


def weights(runner: BaseRunner) -> dict[str, torch.Tensor]:
    """A copy of the model's state that later iterations leave alone."""
    state = runner.bare_model().state_dict()
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def attributes(runner: BaseRunner) -> dict:
    """What modules carry from one iteration to the next outside their state dict: plain values
    that they name in ``resumable``, of which every rank has its own."""
    return {
        f"{name}.{attribute}": getattr(module, attribute)
        for name, module in runner.bare_model().named_modules()
        for attribute in getattr(module, "resumable", ())
    }


def unused_gradients(runner: BaseRunner, iteration: int) -> dict[str, torch.Tensor]:
    """What gradient accumulation has gathered since its last step."""
    steppers = [runner.step, *runner.hooks]  # a hook of the user's may accumulate instead
    every = max(getattr(stepper, "cumulative_iters", 1) for stepper in steppers)
    if iteration % every == 0:
        return {}
    parameters = runner.bare_model().named_parameters()
    return {name: p.grad.cpu().clone() for name, p in parameters if p.grad is not None}


@contextmanager
def averaged_weights(runner: BaseRunner, swap: bool):
    """EMA's weights in the model's place, so that checkpoints and evaluations have them.

    Args:
        runner: the training.
        swap: they are not there already, as they are after an epoch.
    """
    if swap:
        swap_averages(runner)
    try:
        yield
    finally:
        if swap:
            swap_averages(runner)


def swap_averages(runner: BaseRunner) -> None:
    """Exchange the weights that are trained and EMA's, if there is an EMA of mmcv or mmdet."""
    for hook in runner.hooks:
        if hasattr(hook, "_swap_ema_parameters"):
            hook._swap_ema_parameters()


def evaluation_is_due(runner: BaseRunner, epoch_ended: bool) -> bool:
    """Whether an evaluation follows the epoch, or the iteration, that is complete."""
    return any(
        isinstance(hook, EvalHook)
        and hook.by_epoch == epoch_ended
        and hook._should_evaluate(runner)
        for hook in runner.hooks
    )


def check_finite(weights: dict[str, torch.Tensor], runner: BaseRunner) -> None:
    """Refuse to write weights that nothing can be done with.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f"{name} is not finite any more at iteration {runner.iter + 1}; nothing was "
                f"written. {last_good(runner)}"
            )


def write_weights(runner: BaseRunner, path: Path, meta: dict, latest: bool) -> None:
    """Write a checkpoint for testing, as the evaluation does of the best weights.

    Args:
        runner: the training.
        path: the file.
        meta: more of it than the run has.
        latest: point ``latest.pth`` at it.
    """
    checkpoint = dict(
        meta={**meta, **runner.meta, "epoch": runner.epoch + 1, "iter": runner.iter},
        state_dict=weights(runner),
        optimizer=runner.optimizer.state_dict(),
    )
    write_checkpoint(checkpoint, path)
    if latest:
        point_latest(path)
