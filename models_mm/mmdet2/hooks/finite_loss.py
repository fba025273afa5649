"""A loss that is NaN or infinite ends the run, or is skipped, instead of spoiling the weights."""

import math

import torch
from mmcv.runner import HOOKS, Hook

from models_mm.data.sampling import image_metas
from models_mm.distributed import ranks
from models_mm.errors import UserError
from models_mm.mmdet2.hooks.checkpoint import last_good

PRIORITY = 35  # before the optimizer


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Look at the loss of every iteration before the optimizer uses it.

    Args:
        action: ``"stop"`` ends the run; ``"skip"`` leaves the step out, norms' statistics too.
        limit: skipped iterations in a row that end the run all the same.
    """

    def __init__(self, action: str = "stop", limit: int = 10):
        if action not in ("stop", "skip"):
            raise UserError(f"faults.nonfinite_loss: stop or skip, not {action!r}")
        self.action = action
        self.limit = limit
        self.skipped = 0
        self.buffers: dict[str, torch.Tensor] = {}

    def before_train_iter(self, runner) -> None:
        if self.action == "skip":
            buffers = runner.bare_model().named_buffers()
            self.buffers = {name: value.clone() for name, value in buffers}

    def after_train_iter(self, runner) -> None:
        # the logged loss is the mean over the ranks: all of them see the same
        total = runner.outputs["log_vars"].get("loss")
        if total is None or math.isfinite(total):
            self.skipped = 0
            return
        names = [str(image.get("ori_filename", "?")) for image in image_metas(runner.data_batch)]
        mine = names if not math.isfinite(runner.outputs["loss"].item()) else []
        images = ", ".join(name for of_rank in ranks.gather(mine) for name in of_rank)
        parts = [
            f"{name} {value:g}"
            for name, value in runner.outputs["log_vars"].items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        where = f"iteration {runner.iter + 1}, images {images}: {', '.join(parts)}"
        self.skipped += 1
        if self.action == "stop" or self.skipped > self.limit:
            raise UserError(
                f"the loss is not finite in {where}. {last_good(runner)}. A lower learning rate "
                "(optimizer.lr), longer warmup or gradient clipping (optimizer_config.grad_clip) "
                "may help; faults.nonfinite_loss=skip leaves such steps out"
            )
        runner.logger.warning(f"step left out: the loss is not finite in {where}")
        runner.skip_step = True
        forget(runner.log_buffer, runner.outputs["log_vars"])
        for name, value in runner.bare_model().named_buffers():
            value.copy_(self.buffers[name])


def forget(log_buffer, names) -> None:
    """Take an iteration's losses out of the means that are logged."""
    for name in names:
        for history in (log_buffer.val_history, log_buffer.n_history):
            if history.get(name):
                history[name].pop()
            if not history.get(name):
                history.pop(name, None)
