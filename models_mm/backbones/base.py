"""What every backbone shares: its stated contract, frozen stages, norm modes, registration.

A family's file builds the layers; this file holds the duties a detector expects of any of them.
"""

import importlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the one base class that SyncBatchNorm shares
from torch.utils.checkpoint import checkpoint

from models_mm.layers.warehouse import WarehouseLayer
from models_mm.values import is_number

from .published import OTHER_FILES, PublishedFiles

Class = TypeVar("Class", bound=type)
# Every backbone class by the name that configs use, and the names of those that are whole variants.
REGISTRY: dict[str, type["Backbone"]] = {}
VARIANTS: list[str] = []
# Functions of host frameworks, called with the name and the class of each new backbone.
LISTENERS: list[Callable[[str, type], None]] = []


def register(*names: str, variant: bool = False) -> Callable[[Class], Class]:
    """Add a class to the backbones that configs and ``create_backbone`` know.

    Args:
        names: under which it is known (default: the name of the class).
        variant: it is a whole model, which needs no further arguments.

    Raises:
        ValueError: a name is taken by another class.
    """

    def add(cls: Class) -> Class:
        for name in names or (cls.__name__,):
            if REGISTRY.get(name, cls).__qualname__ != cls.__qualname__:
                raise ValueError(f"there is another backbone of the name {name}")
            REGISTRY[name] = cls
            if variant and name not in VARIANTS:
                VARIANTS.append(name)
            for listener in LISTENERS:
                listener(name, cls)
        return cls

    return add


class Backbone(nn.Module):
    """Base of all backbones: a stem followed by stages, each with one output map.

    A subclass implements ``forward(x) -> tuple`` and :meth:`stage_modules`, and calls
    :meth:`freeze` as the last line of its ``__init__``.

    Args:
        channels: width of each stage's output.
        strides: total stride of each stage's output.
        out_indices: stages whose outputs ``forward`` returns, strictly increasing.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages. Frozen
            parts have no gradients and stay in eval mode.
        norm_eval: keep every batch norm in eval mode during training (statistics fixed; weights
            still learn).
        init_cfg: what :meth:`init_weights` starts from, in mmcv's words:
            ``dict(type="Pretrained", checkpoint=FILE)``.
        features_only: timm's word for what a backbone always is: only True is accepted.

    Attributes:
        out_channels: channels of the returned maps, one per entry of ``out_indices``.
        strides: total strides of the returned maps, likewise.
        fused: whether :meth:`fuse` has been called.
        published: the family's published checkpoints.

    Raises:
        ValueError: ``out_indices`` or ``frozen_stages`` name stages that do not exist;
            ``features_only`` is False.
    """

    published: PublishedFiles = OTHER_FILES

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | None = None,
        features_only: bool = True,
    ):
        super().__init__()
        if not features_only:
            raise ValueError("a backbone returns feature maps: features_only=False has no meaning")
        self.init_cfg = init_cfg
        stages = range(len(channels))
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or list(out_indices) != [stage for stage in stages if stage in out_indices]
        ):
            raise ValueError(
                f"out_indices must be strictly increasing stage indices out of {tuple(stages)}, "
                f"got {out_indices}"
            )
        out_indices = tuple(out_indices)
        if frozen_stages not in range(-1, len(channels) + 1):
            raise ValueError(
                f"frozen_stages must be -1 (nothing), 0 (stem) or a number of stages up to "
                f"{len(channels)}, got {frozen_stages}"
            )
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.unused_stages = len(channels) - 1 - out_indices[-1]
        self.out_channels = tuple(channels[i] for i in out_indices)
        self.strides = tuple(strides[i] for i in out_indices)
        self.fused = False

    def stage_modules(self) -> list[list[nn.Module]]:
        """The modules of the stem, then those of each stage: what ``frozen_stages`` counts."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Switch off the gradients of the frozen parts, and of those that no output comes from,
        and bring all modules into their mode.

        Optimisers and DDP look at ``requires_grad`` before the first ``train()``, so this belongs
        to construction. DDP would wait for gradients that never come.
        """
        for module in [*self._frozen_modules(), *self._unused_modules()]:
            module.requires_grad_(False)
        self.train(self.training)

    def _frozen_modules(self) -> list[nn.Module]:
        return [m for group in self.stage_modules()[: self.frozen_stages + 1] for m in group]

    def _unused_modules(self) -> list[nn.Module]:
        """Modules of the stages after the last output, and warehouse cells of theirs alone."""
        groups = self.stage_modules()
        unused = nn.ModuleList(
            m for group in groups[len(groups) - self.unused_stages :] for m in group
        )
        idle = {m for m in unused.modules() if isinstance(m, WarehouseLayer)}
        cells = {cell for layer in idle for cell in layer.cells()}
        for layer in self.modules():
            if isinstance(layer, WarehouseLayer) and layer not in idle:
                cells -= set(layer.cells())
        for cell in cells:
            cell.requires_grad_(False)
        return list(unused)

    def init_weights(self) -> None:
        """Start from ``init_cfg``; without one, the constructor's random weights stay.

        Raises:
            CheckpointError: the file cannot be read, or is of another model.
            ValueError: a type of ``init_cfg`` that needs a host framework.
        """
        if self.init_cfg:
            self.initialize(self, self.init_cfg)

    @staticmethod
    def initialize(backbone: nn.Module, init_cfg: dict) -> None:
        """Read what an ``init_cfg`` names; a host framework that knows more types replaces this."""
        settings = dict(init_cfg)
        kind = settings.pop("type", None)
        if kind != "Pretrained":
            raise ValueError(f"init_cfg: type Pretrained is known here, {kind!r} needs mmcv")
        # by the public function of the package, which is above this room: reading files is not
        # what a backbone knows
        load_pretrained = importlib.import_module("models_mm").load_pretrained
        load_pretrained(backbone, settings.pop("checkpoint"), **settings)

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode, except for frozen parts and (``norm_eval``) batch norms.

        Raises:
            RuntimeError: training mode is asked of a fused model.
        """
        if mode and self.fused:
            raise RuntimeError("a fused backbone has no norms left to train; build a new one")
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def fuse(self) -> "Backbone":
        """Fold every batch norm into its convolution, in place, for inference; returns self.

        Calls ``fuse()`` of every submodule that has one. Keys of the state dict change: load
        weights first, and fuse a deep copy to keep a model that trains. Calling it again does
        nothing.

        Raises:
            RuntimeError: the model is in training mode, or a norm is not a batch norm.
        """
        if self.training:
            raise RuntimeError("fuse() is for inference only; call eval() first")
        for module in list(self.modules()):
            if module is not self and hasattr(module, "fuse"):
                module.fuse()
        self.fused = True
        return self


def pretrained_init(pretrained: str | None, init_cfg: dict | None) -> dict | None:
    """The ``init_cfg`` that ``pretrained`` stands for, or the one that is given.

    Raises:
        ValueError: both are given.
    """
    if pretrained is None:
        return init_cfg
    if init_cfg is not None:
        raise ValueError("give pretrained or init_cfg, not both")
    return dict(type="Pretrained", checkpoint=pretrained)


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth rates of each block, by stage: linear from 0 (first block) to ``rate``.

    Raises:
        ValueError: ``rate`` is not from 0 to less than 1.
    """
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"drop_path_rate must be a number from 0 to less than 1, got {rate!r}")
    last = max(sum(depths) - 1, 1)
    rates = iter(rate * block / last for block in range(sum(depths)))
    return [[next(rates) for _ in range(depth)] for depth in depths]


def checkpointed(block: nn.Module, *inputs: torch.Tensor):
    """``block(*inputs)`` with activations recomputed in the backward pass instead of stored."""
    return checkpoint(
        block,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_kept(block)),
    )


@contextmanager
def _statistics_kept(block: nn.Module):
    """Leave running statistics alone: the recomputation would count every batch twice."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    saved = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:  # SyncBatchNorm insists on a counter
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked
