"""When a run writes checkpoints, and what it takes back from the one that it goes on from."""

import time
from pathlib import Path

import torch
from mmcv.runner import HOOKS, EpochBasedRunner, Hook
from mmcv.runner.hooks import EvalHook, LoggerHook

from models_mm.checkpoints import write_checkpoint
from models_mm.checkpoints.runs import point_latest, prune, sweep
from models_mm.engine import preemption, randomness, ranks, watchdog
from models_mm.errors import CheckpointError, Preempted, UserError

# after EMA's hook has put its weights into the model, before the evaluation
PRIORITY = 69


@HOOKS.register_module()
class ExactCheckpointHook(Hook):
    """Write checkpoints that a run can go on from exactly.

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

    def before_run(self, runner) -> None:
        if self.by_epoch is None:
            self.by_epoch = isinstance(runner, EpochBasedRunner)
        if runner.rank == 0:
            sweep(runner.work_dir)

    def after_train_iter(self, runner) -> None:
        watchdog.step(f"after iteration {runner.iter + 1}")
        late = self.minutes is not None and time.monotonic() - self.written > 60 * self.minutes
        # all ranks or none: the clocks and signals of one are not those of another
        stop, late = ranks.any_rank(preemption.requested(), late)
        regular = not self.by_epoch and (
            self.every_n_iters(runner, self.interval)
            or (self.save_last and self.is_last_iter(runner))
        )
        iterations = runner.iter + 1
        if regular:
            self.write(runner, f"iter_{iterations}.pth", epoch_ended=False)
        elif stop or late or (self.iterations and iterations % self.iterations == 0):
            self.write(runner, f"interim_{iterations}.pth", epoch_ended=False)
        if stop:
            raise Preempted(runner.meta["hook_msgs"]["last_ckpt"])

    def after_train_epoch(self, runner) -> None:
        due = self.by_epoch and (
            self.every_n_epochs(runner, self.interval)
            or (self.save_last and self.is_last_epoch(runner))
        )
        (stop,) = ranks.any_rank(preemption.requested())
        if due:
            self.write(runner, f"epoch_{runner.epoch + 1}.pth", epoch_ended=True)
        elif stop or any(_evaluates_now(hook, runner, True) for hook in runner.hooks):
            # an evaluation may take long, and an end that is asked for meanwhile does not wait
            self.write(runner, f"interim_{runner.iter}.pth", epoch_ended=True)
        if stop:
            raise Preempted(runner.meta["hook_msgs"]["last_ckpt"])

    def write(self, runner, name: str, epoch_ended: bool) -> None:
        """Write a checkpoint, then point ``latest.pth`` at it, then delete old ones."""
        path = Path(runner.work_dir) / name
        snapshot = runner.snapshot(
            epoch=runner.epoch + epoch_ended,
            iteration=runner.iter + (not epoch_ended),
            inner=0 if epoch_ended else runner.inner_iter + 1,
            unevaluated=any(_evaluates_now(hook, runner, epoch_ended) for hook in runner.hooks),
        )
        messages = {**runner.meta.get("hook_msgs", {}), "last_ckpt": str(path)}
        written = runner.meta.get("written", 0) + 1
        if runner.rank == 0:
            with watchdog.paused(f"writing {name}"):
                check_finite(snapshot["state_dict"], runner)
                snapshot["meta"] |= {"hook_msgs": messages, "written": written}
                write_checkpoint(snapshot, path)
                point_latest(path)
                prune(runner.work_dir, self.max_keep_ckpts, runner.meta.get("run"))
        runner.meta |= {"hook_msgs": messages, "written": written}
        watchdog.meet(f"checkpoint {name}")
        self.written = time.monotonic()
        runner.logger.info(f"wrote {path}")


def check_finite(weights: dict, runner) -> None:
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


def last_good(runner) -> str:
    """The newest checkpoint, for messages."""
    path = ((runner.meta or {}).get("hook_msgs") or {}).get("last_ckpt")
    return f"The last good checkpoint is {path}" if path else "There is no checkpoint yet"


def _evaluates_now(hook: Hook, runner, epoch_ended: bool) -> bool:
    return (
        isinstance(hook, EvalHook)
        and hook.by_epoch == epoch_ended
        and hook._should_evaluate(runner)
    )


def check_shape(name: str, value: torch.Tensor, own: torch.Tensor | None) -> None:
    """Refuse what a checkpoint has for a tensor of the model, and has not its shape.

    Raises:
        CheckpointError: its shape is another, or the model has no such tensor.
    """
    if own is None or value.shape != own.shape:
        found = "nothing" if own is None else f"{tuple(own.shape)}"
        raise CheckpointError(f"{name} of the checkpoint is {tuple(value.shape)}, ours is {found}")


@HOOKS.register_module()
class ResumeHook(Hook):
    """Give back, when all other hooks are ready, what a run needs to go on exactly."""

    def before_run(self, runner) -> None:
        if runner.resumed is None:
            return
        progress = runner.resumed
        model = runner.bare_model()
        buffers, parameters = dict(model.named_buffers()), dict(model.named_parameters())
        with torch.no_grad():
            for name, value in progress["ema"].items():
                if name in buffers:  # EMA's hook registers them just before this one runs
                    check_shape(name, value, buffers[name])
                    buffers[name].copy_(value)
        if progress.get("averaged") and not runner.by_epoch:
            runner.swap_averages()  # as the next epoch would, of which there is none
        for name, value in progress.get("gradients", {}).items():
            check_shape(f"progress.gradients.{name}", value, parameters.get(name))
            parameters[name].grad = value.to(parameters[name].device)
        if progress["unevaluated"]:
            self.evaluate(runner)
        attributes = progress.get("attributes") or []
        if runner.rank < len(attributes):
            for name, value in attributes[runner.rank].items():
                module, _, attribute = name.rpartition(".")
                owner = dict(model.named_modules()).get(module)
                known = attribute in getattr(owner, "resumable", ())
                if not known or type(getattr(owner, attribute)) is not type(value):
                    raise CheckpointError(f"progress.attributes: {name} is not of this model")
                setattr(owner, attribute, value)
        states = progress.get("random_states") or []
        if runner.rank < len(states):
            randomness.restore(states[runner.rank])

    def evaluate(self, runner) -> None:
        """Make the evaluation that the checkpoint was written before."""
        for hook in runner.hooks:
            if isinstance(hook, EvalHook):
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
