"""What happens in a training. :meth:`TrainingLoop.iteration` is all that is between two batches.

The order, with mmcv's hooks (``lr_config``, ``ema``, ``evaluation``, ``log_config``, a user's own
``custom_hooks``) between the steps by the names of their priorities. A hook whose priority is a
number between two names comes with the first of them.

    in each iteration
        the batch               data/sampling.py and loaders.py; its bad images are reported
        before_train_iter       all hooks: learning rate, momentum, ...
        forward                 the detector's losses
        after_train_iter        hooks of HIGHEST, VERY_HIGH, HIGH
        loss check              a loss that is not finite ends the run, or has no step
        backward and step       accumulation, clipping; a hook of ``optimizer_config.type`` instead
        after_train_iter        hooks of ABOVE_NORMAL (EMA), NORMAL (a user's own), BELOW_NORMAL
        checkpoint              if one is due; a request to stop ends the run after it
        after_train_iter        hooks of LOW (timer, then evaluation), VERY_LOW (logs), LOWEST;
                                an evaluation that ends the run early writes the last checkpoint
    at the end of an epoch
        after_train_epoch       hooks of HIGHEST to BELOW_NORMAL: EMA puts its averages in
        checkpoint              as above; before the evaluation, which may take long
        after_train_epoch       hooks of LOW (evaluation), VERY_LOW (logs), LOWEST
"""

import math
from pathlib import Path

import torch
from mmcv.parallel import is_module_wrapper
from mmcv.runner import BaseRunner, EpochBasedRunner, IterBasedRunner, IterLoader, OptimizerHook
from mmcv.runner.priority import Priority
from torch import nn

from models_mm.distributed import ranks, signals, watchdog
from models_mm.errors import Preempted
from models_mm.mmdet2 import resuming, snapshots
from models_mm.mmdet2.faults import BadImages, LossCheck, explained_memory
from models_mm.mmdet2.loaders import Loader
from models_mm.mmdet2.losses import LossLog
from models_mm.mmdet2.optimization import StepSettings

# from which of mmcv's priorities to which
BEFORE_STEP, AFTER_STEP = ("HIGHEST", "HIGH"), ("ABOVE_NORMAL", "BELOW_NORMAL")
BEFORE_CHECKPOINT, AFTER_CHECKPOINT = ("HIGHEST", "BELOW_NORMAL"), ("LOW", "LOWEST")


class TrainingLoop(BaseRunner):
    """Trains a detector; to hooks it is mmcv's runner.

    Args:
        step: how a loss becomes a step; None: a hook of ``optimizer_config.type`` does it.
        checkpoints: when checkpoints are written.
        bad_images: how many images may be replaced.
        loss_check: what a loss that is not finite does.
        settings: of mmcv's runner.
    """

    by_epoch: bool  # whether the run is counted in epochs or in iterations
    resumed: dict | None = None  # what a checkpoint holds beside mmcv's state, until it is used
    skip_step = False  # the loss of this iteration is not to be used

    def __init__(
        self,
        step: StepSettings | None,
        checkpoints: snapshots.CheckpointWriter,
        bad_images: BadImages,
        loss_check: LossCheck,
        **settings,
    ):
        super().__init__(**settings)
        self.log_buffer = LossLog()
        self.step = step
        self.checkpoints = checkpoints
        self.bad_images = bad_images
        self.loss_check = loss_check

    # --- one iteration

    def iteration(self, batch: dict) -> None:
        """Train on one batch."""
        self.data_batch, self.skip_step = batch, False
        self.bad_images.report(self, batch)
        self.call_hook("before_train_iter")
        self.loss_check.before_forward(self.bare_model())
        self.forward(self.model.train_step)

        self.call_hooks("after_train_iter", *BEFORE_STEP)
        self.skip_step = not self.loss_check.passes(self)
        if self.step and not self.skip_step:
            self.backward_and_step(self.step)
        self.call_hooks("after_train_iter", *AFTER_STEP)

        watchdog.report_progress(f"after iteration {self.iter + 1}")
        flags = signals.stop_requested(), self.checkpoints.is_late()
        stop, late = ranks.any_rank_at(self.iter + 1, *flags)
        self.checkpoints.after_iteration(self, wanted=stop or late)
        if stop:
            raise Preempted(self.meta["hook_msgs"]["last_ckpt"])
        self.call_hooks("after_train_iter", *AFTER_CHECKPOINT)
        self.loss_check.look_back(self)
        del self.data_batch
        self._iter += 1

    def forward(self, method) -> None:
        """Compute the losses of the batch: ``train_step`` or ``val_step``, wrapped by DDP."""
        self.outputs = method(self.data_batch, self.optimizer)
        if "log_vars" in self.outputs:
            self.log_buffer.update(self.outputs["log_vars"], self.outputs["num_samples"])

    def backward_and_step(self, step: StepSettings) -> None:
        """Add the gradients of the loss, which DDP averages over the ranks, and use them if due."""
        if step.cumulative_iters == 1:  # here, not after the step: later hooks see the gradients
            self.optimizer.zero_grad()
        step.check_graph(self)
        # without float16 the scaler is disabled: it neither scales nor leaves steps out
        step.scaler.scale(self.outputs["loss"] / step.parts(self)).backward()
        if not step.is_due(self):
            return
        step.scaler.unscale_(self.optimizer)
        step.clip(self)
        step.scaler.step(self.optimizer)
        step.scaler.update(step.fixed_scale)
        if step.cumulative_iters > 1:
            self.optimizer.zero_grad()

    def call_hooks(self, stage: str, first: str, last: str) -> None:
        """Call a stage of the hooks whose priority is one of those from ``first`` to ``last``."""
        begin = Priority[first].value
        end = min((p.value for p in Priority if p.value > Priority[last].value), default=math.inf)
        for hook in self.hooks:
            unusable = self.skip_step and isinstance(hook, OptimizerHook)
            if begin <= hook.priority < end and not unusable:
                getattr(hook, stage)(self)

    # --- epochs and the run

    def run(self, data_loaders: list[Loader], workflow: list[tuple[str, int]]) -> None:
        """Train to the end of the run, from its beginning or from where :meth:`resume` goes on.

        The workflow is ``("train", n)``, and ``("val", m)`` for losses of the validation data.
        """
        self.data_loader = data_loaders[0]  # an evaluation before the first epoch logs its length
        self.samples_per_gpu = data_loaders[0].samples_per_gpu
        if self.by_epoch:
            self._max_iters = self.max_epochs * len(data_loaders[0])
        if self.resumed:
            resuming.translate_place(self, self.resumed, data_loaders[0])
        self.call_hook("before_run")
        self.checkpoints.prepare(self)
        if self.step:
            self.step.prepare(self)
        if self.resumed:
            resuming.restore(self, self.resumed)
        self.run_workflow(list(zip(data_loaders, workflow, strict=True)))
        self.call_hook("after_run")

    def begin(self, mode: str, loader: Loader | IterLoader) -> None:
        """Set the model, and what hooks ask for, to training or to validation losses."""
        self.model.train(mode == "train")
        self.mode, self.data_loader, self.resumed = mode, loader, None

    @torch.no_grad()
    def validate(self, batch: dict) -> None:
        """Compute the losses of one batch of the validation data."""
        self.data_batch = batch
        self.call_hook("before_val_iter")
        self.forward(self.model.val_step)
        self.call_hook("after_val_iter")
        del self.data_batch

    # --- what hooks ask of a runner

    def bare_model(self) -> nn.Module:
        """The detector without its wrapper for several processes or GPUs."""
        return self.model.module if is_module_wrapper(self.model) else self.model

    def resume(self, checkpoint: str, resume_optimizer: bool = True, map_location="cpu") -> None:
        """Go on from a checkpoint; :meth:`run` does the rest when all hooks are ready."""
        self.resumed = resuming.resume(self, checkpoint, resume_optimizer)

    def save_checkpoint(
        self, out_dir, filename_tmpl="epoch_{}.pth", meta=None, create_symlink=True, **_
    ) -> None:
        """The weights for testing, as mmcv's evaluation hook asks for its best one."""
        path = Path(out_dir) / filename_tmpl.format(self.epoch + 1)
        snapshots.write_weights(self, path, meta or {}, latest=create_symlink)


class EpochLoop(TrainingLoop, EpochBasedRunner):
    """Counts in epochs. Hooks that ask for ``EpochBasedRunner`` find it."""

    by_epoch = True

    def run_workflow(self, parts: list[tuple[Loader, tuple[str, int]]]) -> None:
        """Train, and compute validation losses, by epochs."""
        while self.epoch < self.max_epochs:
            for loader, (mode, count) in parts:
                for _ in range(count):
                    if mode == "val":
                        self.val(loader)
                    elif self.epoch < self.max_epochs:
                        self.train(loader)

    def train(self, data_loader: Loader) -> None:
        """Train for an epoch, or for what is left of it."""
        first = self.inner_iter if self.resumed else 0
        self.begin("train", data_loader)
        data_loader.batches.start(self.epoch, first)
        self.call_hook("before_train_epoch")
        for self._inner_iter, batch in enumerate(data_loader, first):
            with explained_memory(self):
                self.iteration(batch)

        self.call_hooks("after_train_epoch", *BEFORE_CHECKPOINT)
        (stop,) = ranks.any_rank(signals.stop_requested())
        self.checkpoints.after_epoch(self, wanted=stop)
        if stop:
            raise Preempted(self.meta["hook_msgs"]["last_ckpt"])
        self.call_hooks("after_train_epoch", *AFTER_CHECKPOINT)
        self._epoch += 1

    def val(self, data_loader: Loader) -> None:
        """Compute the losses of the validation data."""
        self.begin("val", data_loader)
        self.call_hook("before_val_epoch")
        for self._inner_iter, batch in enumerate(data_loader):
            self.validate(batch)
        self.call_hook("after_val_epoch")


class IterationLoop(TrainingLoop, IterBasedRunner):
    """Counts in iterations of an epoch without an end. ``IterBasedRunner`` to hooks that ask."""

    by_epoch = False

    def run_workflow(self, parts: list[tuple[Loader, tuple[str, int]]]) -> None:
        """Train, and compute validation losses, by iterations."""
        self._epoch = 0
        parts[0][0].batches.start(self.epoch, self.iter)
        streams = [(IterLoader(loader), flow) for loader, flow in parts]
        self.call_hook("before_epoch")
        while self.iter < self.max_iters:
            for stream, (mode, count) in streams:
                for self._inner_iter in range(count):
                    self.begin(mode, stream)
                    if mode == "val":
                        self.validate(next(stream))
                    elif self.iter < self.max_iters:
                        with explained_memory(self):
                            self.iteration(next(stream))
        self.call_hook("after_epoch")
