"""What can be wrong in an iteration: bad images, losses that are not finite, too little memory.

``faults`` of a config decides what happens then.
"""

import math
from collections.abc import Mapping
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

import torch
from mmcv.runner import BaseRunner, LogBuffer
from torch import nn

from models_mm.data.sampling import image_metas
from models_mm.distributed import ranks
from models_mm.errors import UserError
from models_mm.mmdet2.losses import Losses

MEMORY_ADVICE = (
    "less memory: --cfg-options model.backbone.with_cp=True (recompute activations); "
    "data.samples_per_gpu=1 with --auto-scale-lr; a smaller scale in the pipeline's Resize "
    "(img_scale); half precision: fp16.loss_scale=dynamic"
)


class BadImages:
    """Names and counts the images that :class:`models_mm.data.sampling.SeededSamples` has replaced.

    Args:
        images: number of images in the data set.
        limit: share of them that may be bad (at least one may), or from 1 on their number; 0: none.
    """

    def __init__(self, images: int, limit: float = 0.01):
        self.images = images
        self.limit = max(1, int(limit * images)) if 0 < limit < 1 else limit
        self.found: dict[str, str] = {}

    def report(self, runner: BaseRunner, batch: dict) -> None:
        """Log the bad images of a batch that are new.

        Raises:
            UserError: there have been more than the limit.
        """
        for image in image_metas(batch):
            for name, reason in image.pop("replaced", ()):
                if name not in self.found:
                    self.found[name] = reason
                    # mmcv shows errors of every rank, and warnings of the first only
                    runner.logger.error(
                        f"bad image {name} replaced ({reason}); {len(self.found)} so far on "
                        f"rank {runner.rank}"
                    )
        if len(self.found) > self.limit:
            some = "".join(f"\n  {name}: {reason}" for name, reason in list(self.found.items())[:5])
            raise UserError(
                f"{len(self.found)} of {self.images} images cannot be used (faults.bad_images "
                f"allows {self.limit:g}), among them{some}\n  tools/check_dataset.py lists them all"
            )


class Unread(NamedTuple):
    """An iteration whose losses are still on the GPU.

    Attributes:
        iteration: from 1 on.
        images: of this rank, by name.
        own: the loss of this rank.
        losses: of all ranks.
    """

    iteration: int
    images: list[str]
    own: torch.Tensor
    losses: Losses


class LossCheck:
    """Looks at the loss of each iteration before the optimizer uses it.

    On a GPU, to look means to wait. There, ``"stop"`` looks at the losses of several iterations
    together, and before a checkpoint: what is written was made of finite losses.

    Args:
        action: ``"stop"`` ends the run; ``"skip"`` leaves the step out, norms' statistics too.
        limit: skipped iterations in a row that end the run all the same.

    Raises:
        UserError: unknown action.
    """

    def __init__(self, action: str = "stop", limit: int = 10):
        if action not in ("stop", "skip"):
            raise UserError(f"faults.nonfinite_loss: stop or skip, not {action!r}")
        self.action = action
        self.limit = limit
        self.skipped = 0
        self.buffers: dict[str, torch.Tensor] = {}
        self.unread: list[Unread] = []

    def before_forward(self, model: nn.Module) -> None:
        """Keep the buffers, which a forward pass that is not used must not change."""
        if self.action == "skip":
            self.buffers = {name: value.clone() for name, value in model.named_buffers()}

    def passes(self, runner: BaseRunner) -> bool:
        """Whether the loss of this iteration is finite; all ranks get the same answer.

        Where it is not, the log and the model's buffers become what they were before it.

        Raises:
            UserError: it is not, and the run ends; names the images and the losses.
        """
        losses = runner.outputs["log_vars"]
        names = [str(image.get("ori_filename", "?")) for image in image_metas(runner.data_batch)]
        now = Unread(runner.iter + 1, names, runner.outputs["loss"].detach(), losses)
        if self.action == "stop" and isinstance(losses, Losses):
            self.unread.append(now)
            return True
        if is_finite(losses):
            self.skipped = 0
            return True
        self.skipped += 1
        if self.action == "stop" or self.skipped > self.limit:
            self.end(runner, now)
        runner.logger.warning(f"step left out: the loss is not finite in {describe(now)}")
        remove_newest(runner.log_buffer, losses)
        for name, value in runner.bare_model().named_buffers():
            value.copy_(self.buffers[name])
        return False

    def look_back(self, runner: BaseRunner, now: bool = False) -> None:
        """Look at the losses that are still on the GPU, if it is time to; every rank calls it.

        Args:
            runner: the training.
            now: it is time in any case.

        Raises:
            UserError: as :meth:`passes`.
        """
        if now or (runner.iter + 1) % ranks.GPU_ITERATIONS == 0:
            for before in self.unread:
                if not is_finite(before.losses):
                    self.end(runner, before)
            self.unread.clear()

    def end(self, runner: BaseRunner, iteration: Unread) -> NoReturn:
        """End the run because of the losses of an iteration."""
        raise UserError(
            f"the loss is not finite in {describe(iteration)}. {last_good(runner)}. A lower "
            "learning rate (optimizer.lr), longer warmup or gradient clipping "
            "(optimizer_config.grad_clip) may help; faults.nonfinite_loss=skip leaves such steps "
            "out"
        )


def is_finite(losses: Mapping) -> bool:
    """Whether the loss is; it is the mean over the ranks, so that all of them see the same."""
    total = losses.get("loss")
    return total is None or math.isfinite(total)


def describe(iteration: Unread) -> str:
    """The iteration, the images and the losses that are not finite; every rank calls it."""
    mine = iteration.images if not math.isfinite(iteration.own.item()) else []
    images = ", ".join(name for of_rank in ranks.gather(mine) for name in of_rank)
    losses = ", ".join(
        f"{name} {value:g}"
        for name, value in iteration.losses.items()
        if isinstance(value, float) and not math.isfinite(value)
    )
    return f"iteration {iteration.iteration}, images {images}: {losses}"


def remove_newest(log_buffer: LogBuffer, names) -> None:
    """Take the newest value of each name out of the means that are logged."""
    for name in names:
        for history in (log_buffer.val_history, log_buffer.n_history):
            if history.get(name):
                history[name].pop()
            if not history.get(name):
                history.pop(name, None)


def last_good(runner: BaseRunner) -> str:
    """A sentence for messages: the newest checkpoint of the run."""
    path = ((runner.meta or {}).get("hook_msgs") or {}).get("last_ckpt")
    return f"The last good checkpoint is {path}" if path else "There is no checkpoint yet"


@contextmanager
def explained_memory(runner: BaseRunner):
    """Say of which images a GPU ran out of memory, and what helps.

    Raises:
        UserError: instead of ``torch.cuda.OutOfMemoryError``.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        images = image_metas(runner.data_batch)
        shapes = [tuple(image.get("pad_shape", ())) for image in images]
        raise UserError(
            f"rank {runner.rank} ran out of GPU memory in iteration {runner.iter + 1}, with "
            f"{len(images)} images of {', '.join(map(str, shapes))} "
            f"({str(error).partition('.')[0]})\n  {MEMORY_ADVICE}"
        ) from error
