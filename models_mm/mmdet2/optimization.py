"""The optimizer of a config, and how a loss becomes a step of it."""

from dataclasses import dataclass, field

import torch
from mmcv import Config
from mmcv.runner import BaseRunner, OptimizerHook, get_dist_info, wrap_fp16_model
from mmcv.utils.parrots_wrapper import _BatchNorm
from mmdet.core import build_optimizer
from torch import nn

from models_mm.errors import UserError
from models_mm.logs import FILE_ONLY
from models_mm.mmdet2.building import built
from models_mm.mmdet2.losses import Later

FUSED = ("Adam", "AdamW", "SGD")  # optimizers that PyTorch has in one kernel
IMAGES = 2  # per batch, where the config does not say


def optimizer_of(model: nn.Module, settings: dict) -> torch.optim.Optimizer:
    """The optimizer of a config; on a GPU, one kernel for all parameters where PyTorch has it.

    Raises:
        UserError: it cannot be built, or decays learning rates by layers that it does not know.
    """

    if on_gpu(model) and not {"fused", "foreach", "differentiable"} & settings.keys():
        if settings.get("type") in FUSED:
            settings = {**settings, "fused": True}

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


def on_gpu(model: nn.Module) -> bool:
    """Whether all parameters are on GPUs."""
    return all(parameter.is_cuda for parameter in model.parameters())


def scale_lr(cfg: Config, logger) -> None:
    """Scale the learning rate linearly to the images of one step, if the config asks for it."""
    wanted = cfg.get("auto_scale_lr") or {}
    if not wanted.get("enable"):
        return
    if cfg.optimizer.get("lr") is None:
        raise UserError("auto_scale_lr needs optimizer.lr in the config")
    accumulated = (cfg.optimizer_config or {}).get("cumulative_iters", 1)
    images = cfg.data.train_dataloader.get("samples_per_gpu", IMAGES)
    here = get_dist_info()[1] * images * accumulated
    scaled = cfg.optimizer.lr * here / wanted["base_batch_size"]
    logger.info(
        f"learning rate {cfg.optimizer.lr:g} for {wanted['base_batch_size']} images a step has "
        f"become {scaled:g} for {here}",
        extra=FILE_ONLY,
    )
    cfg.optimizer.lr = scaled


@dataclass
class StepSettings:
    """``optimizer_config`` and ``fp16`` of a config: how a loss becomes a step of the optimizer.

    Attributes:
        grad_clip: arguments of ``torch.nn.utils.clip_grad_norm_``; None: no clipping.
        cumulative_iters: iterations whose gradients are added up for one step.
        detect_anomalous_params: log in each iteration the parameters that the loss does not reach.
        loss_scale: of float16: a fixed scale, "dynamic", or arguments of torch's GradScaler; None:
            the model is not trained in float16.
        scaler: scales the loss. Without float16 it is disabled: it changes nothing.
    """

    grad_clip: dict | None = None
    cumulative_iters: int = 1
    detect_anomalous_params: bool = False
    loss_scale: float | str | dict | None = None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self):
        settings = self.loss_scale if isinstance(self.loss_scale, dict) else {}
        if self.fixed_scale is not None:
            settings = {"init_scale": self.fixed_scale}
        self.scaler = torch.amp.GradScaler("cuda", **{"enabled": self.half, **settings})

    @property
    def half(self) -> bool:
        """Whether the model is trained in float16."""
        return self.loss_scale is not None

    @property
    def fixed_scale(self) -> float | None:
        """The scale of the loss, where it does not change."""
        return float(self.loss_scale) if isinstance(self.loss_scale, (int, float)) else None

    def prepare(self, runner: BaseRunner) -> None:
        """Tell the model its number format; go on with the loss scale of the run before."""
        if self.half:
            wrap_fp16_model(runner.model)
            before = runner.meta.get("fp16", {}).get("loss_scaler")
            if before is not None:
                self.scaler.load_state_dict(before)
        norms = any(isinstance(module, _BatchNorm) for module in runner.model.modules())
        if self.cumulative_iters > 1 and norms:
            runner.logger.warning(
                f"optimizer_config.cumulative_iters={self.cumulative_iters}: the statistics of "
                "BatchNorm are still those of single iterations"
            )

    def keep_scale(self, runner: BaseRunner) -> None:
        """Put the loss scale where checkpoints have it; on a GPU this waits for its work."""
        if self.half:
            runner.meta.setdefault("fp16", {})["loss_scaler"] = self.scaler.state_dict()

    def parts(self, runner: BaseRunner) -> int:
        """The number of iterations that share the step which this iteration is for.

        The last step of a run may have fewer than the others.
        """
        rest = runner.max_iters % self.cumulative_iters
        return rest if runner.iter >= runner.max_iters - rest else self.cumulative_iters

    def is_due(self, runner: BaseRunner) -> bool:
        """Whether a step is taken after this iteration."""
        done = runner.iter + 1
        return done % self.cumulative_iters == 0 or done == runner.max_iters

    def check_graph(self, runner: BaseRunner) -> None:
        """Log the parameters that the loss does not depend on, if the config asks for it."""
        if self.detect_anomalous_params:
            OptimizerHook().detect_anomalous_parameters(runner.outputs["loss"], runner)

    def clip(self, runner: BaseRunner) -> None:
        """Clip the gradients, and log their norm before it."""
        found = [p for p in runner.model.parameters() if p.requires_grad and p.grad is not None]
        if self.grad_clip is not None and found:
            norm = nn.utils.clip_grad_norm_(found, **self.grad_clip)
            value = Later(norm.item) if norm.is_cuda else float(norm)
            runner.log_buffer.update({"grad_norm": value}, runner.outputs["num_samples"])


def step_settings(cfg: Config) -> StepSettings | None:
    """How a config turns a loss into a step; None: ``optimizer_config.type`` is a hook that does.

    Raises:
        UserError: settings that cannot be.
    """
    settings = dict(cfg.optimizer_config)
    if "type" in settings:
        return None
    if cfg.get("fp16") is not None:
        settings["loss_scale"] = cfg.fp16.get("loss_scale", 512.0)
    return built("optimizer_config", lambda: StepSettings(**settings))
