"""mmcv's two runners, able to stop after any iteration and to go on there exactly."""

import logging
import math
from contextlib import contextmanager
from pathlib import Path

import torch
from mmcv.parallel import is_module_wrapper
from mmcv.runner import EpochBasedRunner, IterBasedRunner, OptimizerHook
from torch import nn

from models_mm import randomness
from models_mm.checkpoints import write_checkpoint
from models_mm.checkpoints.runs import point_latest
from models_mm.checkpoints.state import check_optimizer, check_state
from models_mm.data.sampling import image_metas
from models_mm.distributed import ranks
from models_mm.errors import CheckpointError, UserError

MEMORY_ADVICE = (
    "less memory: --cfg-options model.backbone.with_cp=True (recompute activations); "
    "data.samples_per_gpu=1 with --auto-scale-lr; a smaller scale in the pipeline's Resize "
    "(img_scale); half precision: fp16.loss_scale=dynamic"
)


class Resumable:
    """What both runners share; a mixin before mmcv's runner.

    ``progress`` is the part of a checkpoint that mmcv does not know, as :meth:`snapshot` makes it;
    that of the checkpoint that the run went on from, until it is used, is ``resumed``.
    """

    resumed: dict | None = None
    skip_step = False  # set by a hook: this iteration's loss is not to be used

    def bare_model(self) -> nn.Module:
        """The detector without its wrapper for several processes or GPUs."""
        return self.model.module if is_module_wrapper(self.model) else self.model

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the model's state that later iterations leave alone."""
        state = self.bare_model().state_dict()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def attributes(self) -> dict:
        """What modules carry from one iteration to the next outside their state dict: plain values
        that they name in ``resumable``, of which every rank has its own."""
        return {
            f"{name}.{attribute}": getattr(module, attribute)
            for name, module in self.bare_model().named_modules()
            for attribute in getattr(module, "resumable", ())
        }

    def snapshot(self, epoch: int, iteration: int, inner: int, unevaluated: bool) -> dict:
        """Everything that the next iteration depends on; every rank calls it, rank 0 uses it.

        Args:
            epoch: epochs that are complete.
            iteration: iterations that are complete.
            inner: those of them in this epoch.
            unevaluated: an evaluation is due at this point and has not been made.
        """
        states = ranks.gather(randomness.capture())
        with self.averaged_weights(swap=inner > 0 or not self.by_epoch):
            return dict(
                meta={**(self.meta or {}), "epoch": epoch, "iter": iteration},
                state_dict=self.weights(),
                optimizer=self.optimizer.state_dict(),
                progress=dict(
                    inner_iter=inner,
                    world_size=self.world_size,
                    samples_per_gpu=self.samples_per_gpu,
                    random_states=states,
                    attributes=ranks.gather(self.attributes()),
                    unevaluated=unevaluated,
                    averaged=True,
                    gradients=self.unused_gradients(iteration),
                ),
            )

    @property
    def by_epoch(self) -> bool:
        """Whether EMA's hooks swap weights by themselves: they do so around epochs only."""
        return isinstance(self, EpochBasedRunner)

    @contextmanager
    def averaged_weights(self, swap: bool):
        """EMA's weights in the model's place, as after an epoch, so that all checkpoints agree."""
        if swap:
            self.swap_averages()
        try:
            yield
        finally:
            if swap:
                self.swap_averages()

    def swap_averages(self) -> None:
        """Exchange the weights that are trained and EMA's, if there is an EMA."""
        for hook in self.hooks:
            if hasattr(hook, "_swap_ema_parameters"):
                hook._swap_ema_parameters()

    def unused_gradients(self, iteration: int) -> dict:
        """What gradient accumulation has gathered since its last step."""
        every = max((getattr(hook, "cumulative_iters", 1) for hook in self.hooks), default=1)
        if iteration % every == 0:
            return {}
        parameters = self.bare_model().named_parameters()
        return {name: p.grad.cpu().clone() for name, p in parameters if p.grad is not None}

    def save_checkpoint(
        self, out_dir, filename_tmpl="epoch_{}.pth", meta=None, create_symlink=True, **_
    ) -> None:
        """The weights for testing, as mmcv's evaluation hook asks for its best one."""
        name = filename_tmpl.format(self.epoch + 1)
        meta = {**(meta or {}), **(self.meta or {}), "epoch": self.epoch + 1, "iter": self.iter}
        checkpoint = dict(
            meta=meta,
            state_dict=self.weights(),
            optimizer=self.optimizer.state_dict(),
        )
        write_checkpoint(checkpoint, Path(out_dir) / name)
        if create_symlink:
            point_latest(Path(out_dir) / name)

    def resume(self, checkpoint: str, resume_optimizer: bool = True, map_location="cpu") -> None:
        """Continue from a checkpoint: ours exactly, mmcv's from its epoch.

        Raises:
            CheckpointError: it cannot be read, is of another model, or holds weights only.
        """
        found = self.load_checkpoint(checkpoint, map_location="cpu")
        meta = found.get("meta") or {}
        if not isinstance(meta, dict) or not {"epoch", "iter", "optimizer"} <= {*meta, *found}:
            raise CheckpointError(
                f"{checkpoint} holds weights but no state of a training to resume; to start a new "
                "training from its weights, use --cfg-options load_from=..."
            )
        check_state(found, checkpoint)
        self._epoch, self._iter = meta["epoch"], meta["iter"]
        if resume_optimizer:
            check_optimizer(self.optimizer, found["optimizer"], checkpoint)
            self.optimizer.load_state_dict(found["optimizer"])
        self.meta = {
            **(self.meta or {}),
            **{k: meta[k] for k in ("hook_msgs", "fp16") if meta.get(k) is not None},
        }
        self.forget_others_best()
        progress = found.get("progress") or {"inner_iter": 0, "unevaluated": False}
        progress.setdefault("world_size", len(meta.get("gpu_ids", ())) or self.world_size)
        ema = {k: v for k, v in found["state_dict"].items() if k.startswith("ema_")}
        self._inner_iter = progress["inner_iter"]
        self.resumed = {**progress, "ema": ema}
        self.logger.info(
            f"resumed {checkpoint}: epoch {self.epoch + 1}, {self._inner_iter} iterations into it"
            if isinstance(self, EpochBasedRunner)
            else f"resumed {checkpoint}: iteration {self.iter}"
        )

    def forget_others_best(self) -> None:
        """Leave alone what a checkpoint calls the best one before and is not in this work dir: the
        evaluation's hook deletes it when there is a better one."""
        messages = self.meta.get("hook_msgs", {})
        work_dir = Path(self.work_dir)
        elsewhere = [getattr(hook, "out_dir", None) for hook in self.hooks]
        folders = [work_dir, *(Path(folder, work_dir.name) for folder in elsewhere if folder)]
        best = messages.get("best_ckpt")
        if best is not None and not (
            isinstance(best, str)
            and Path(best).parent.resolve() in [folder.resolve() for folder in folders]
        ):
            self.meta["hook_msgs"] = {k: v for k, v in messages.items() if k != "best_ckpt"}

    def run(self, data_loaders: list, workflow: list, **kwargs) -> None:
        self.data_loader = data_loaders[0]  # an evaluation before the first epoch logs its length
        self.samples_per_gpu = data_loaders[0].batches.batches.batch_size
        if self.resumed:
            self.translate_place(len(data_loaders[0]))
        data_loaders[0].batches.start(*self.place())
        super().run(data_loaders, workflow, **kwargs)

    def translate_place(self, length: int) -> None:
        """Find the image at which to go on, if iterations had more or fewer images before.

        Args:
            length: iterations of an epoch now.
        """
        now = (self.world_size, self.samples_per_gpu)
        before = (self.resumed["world_size"], self.resumed.get("samples_per_gpu", now[1]))
        if before != now:
            share = math.prod(before) / math.prod(now)
            self._iter = int(self._iter * share)
            self._inner_iter = int(self._inner_iter * share)
            self.logger.warning(
                f"{before[0]} processes x {before[1]} images have become {now[0]} x {now[1]}: the "
                "run goes on at the same image, but is no longer the one that it would have been"
            )

    def call_hook(self, fn_name: str) -> None:
        for hook in self._hooks:
            # a hook before the optimizer's may have found that there is nothing to step on
            if not (self.skip_step and isinstance(hook, OptimizerHook)):
                getattr(hook, fn_name)(self)

    @contextmanager
    def explained_memory(self):
        """Say of which images a GPU ran out of memory, and what helps."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            images = image_metas(self.data_batch)
            shapes = [tuple(image.get("pad_shape", ())) for image in images]
            raise UserError(
                f"rank {self.rank} ran out of GPU memory in iteration {self.iter + 1}, with "
                f"{len(images)} images of {', '.join(map(str, shapes))} "
                f"({str(error).partition('.')[0]})\n  {MEMORY_ADVICE}"
            ) from error


class EpochRunner(Resumable, EpochBasedRunner):
    """``EpochBasedRunner`` that can start in the middle of an epoch."""

    def translate_place(self, length: int) -> None:
        super().translate_place(length)
        self._inner_iter = min(self._inner_iter, length)  # all of it may be done
        # what schedules and the estimate of the end count by
        self._iter = self._epoch * length + self._inner_iter

    def place(self) -> tuple[int, int]:
        """The epoch and the batch to go on with."""
        return self.epoch, self._inner_iter if self.resumed else 0

    def train(self, data_loader, **kwargs) -> None:
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        self._max_iters = self._max_epochs * len(data_loader)
        epoch, first = self.place()
        self.resumed = None
        data_loader.batches.start(epoch, first)
        self.call_hook("before_train_epoch")
        for i, self.data_batch in enumerate(data_loader, first):
            self._inner_iter = i
            self.skip_step = False
            with self.explained_memory():
                self.call_hook("before_train_iter")
                self.run_iter(self.data_batch, train_mode=True, **kwargs)
                self.call_hook("after_train_iter")
            del self.data_batch
            self._iter += 1
        self.call_hook("after_train_epoch")
        self._epoch += 1


class IterRunner(Resumable, IterBasedRunner):
    """``IterBasedRunner`` that starts at the batch of its iteration."""

    def place(self) -> tuple[int, int]:
        """All iterations are of one epoch without an end."""
        return 0, self.iter

    def train(self, data_loader, **kwargs) -> None:
        self.resumed = None
        self.skip_step = False
        with self.explained_memory():
            super().train(data_loader, **kwargs)


RUNNERS = {"EpochBasedRunner": EpochRunner, "IterBasedRunner": IterRunner}


def build_runner(settings: dict, logger: logging.Logger, **kwargs) -> EpochRunner | IterRunner:
    """The runner of a config's ``runner``.

    Raises:
        UserError: a type that cannot go on exactly.
    """
    settings = dict(settings)
    kind = settings.pop("type")
    if kind not in RUNNERS:
        raise UserError(f"runner.type {kind}: known are {', '.join(RUNNERS)}")
    return RUNNERS[kind](**settings, logger=logger, **kwargs)
