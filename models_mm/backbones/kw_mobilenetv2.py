"""MobileNetV2 with convolutions from kernel warehouses.

Papers: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381;
Li, Yao, "KernelWarehouse: Rethinking the Design of Dynamic Convolution", ICML 2024 (arXiv
2406.07879). All kernels come from warehouses.

Provenance: written from the papers and a published architecture description; parameter names and
features agree with the authors' published checkpoints (Apache-2.0). The plain MobileNetV2 is
``mobilenetv2.py``.

Shape legend: N batch, C channels, H, W map.
"""

from collections.abc import Sequence
from functools import partialmethod
from typing import NamedTuple

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models_mm.layers.folding import fold_norms
from models_mm.layers.forms import fastest_layout
from models_mm.layers.warehouse import WarehouseManager

from .base import Backbone, checkpointed, drop_path_rates, pretrained_init, register
from .kernelwarehouse import KW_FILES
from .reference import check_published, ignoring_resnet


class Group(NamedTuple):
    """Inverted residuals of one kind; ``stage`` is that of their warehouses."""

    expansion: int
    channels: int
    count: int
    stride: int
    stage: int


GROUPS = (
    Group(1, 16, 1, 1, stage=1),
    Group(6, 24, 2, 2, stage=2),
    Group(6, 32, 3, 2, stage=3),
    Group(6, 64, 4, 2, stage=4),
    Group(6, 96, 3, 1, stage=5),
    Group(6, 160, 3, 2, stage=6),
    Group(6, 320, 1, 1, stage=6),
)
STEM, LAST = 32, 1280
# The features after which an output may be taken, with their channels and strides.
OUTPUTS = (1, 3, 6, 13, 18)
CHANNELS = (16, 24, 32, 96, LAST)
STRIDES = (2, 4, 8, 16, 32)
# The reference's further keyword.
PUBLISHED = {"width_mult": 1.0}


class ConvNorm(nn.Sequential):
    """A convolution, its norm, and ReLU6: (N, C, H, W) -> (N, C', H', W')."""

    def __init__(self, conv: nn.Module):
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(super().forward(x), inplace=True)

    def fuse(self) -> None:
        fold_norms(self, ("0", "1"))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection: (N, C, H, W) -> (N, C', H', W')."""

    def __init__(
        self,
        manager: WarehouseManager,
        name: str,
        in_channels: int,
        group: Group,
        stride: int,
        drop_path: float,
    ):
        super().__init__()
        width, channels = in_channels * group.expansion, group.channels
        layers = []
        if group.expansion != 1:
            layers.append(ConvNorm(manager.conv2d(f"{name}_pwconv0", in_channels, width, 1)))
        depthwise = manager.conv2d(f"{name}_dwconv0", width, width, 3, stride, 1, groups=width)
        project = manager.conv2d(f"{name}_pwconv1", width, channels, 1)
        self.conv = nn.Sequential(*layers, ConvNorm(depthwise), project, nn.BatchNorm2d(channels))
        self.residual = stride == 1 and in_channels == channels
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if self.residual:
            out = self.drop_path(out)
            out += x
        return out

    def fuse(self) -> None:
        last = len(self.conv) - 1
        fold_norms(self.conv, (str(last - 1), str(last)))


@register()
class KW_MobileNetV2(Backbone):
    """MobileNetV2 with kernels from warehouses (ICML 2024).

    Any H, W >= 1 works: every stride 2 maps a side s to ceil(s / 2). Attentions average over the
    whole map, so the padding of a batch has an influence on an image's features. The cells are no
    part of any stage: they learn whatever is frozen, as in the published training.

    Args:
        out_indices: which of the five outputs to return (16, 24, 32, 96 and 1280 channels at
            strides 2 to 32), strictly increasing.
        frozen_stages: -1 freezes nothing, k everything up to output k.
        norm_eval: keep every batch norm in eval mode during training, those of attentions too. A
            batch of one image needs it.
        drop_path_rate: stochastic depth rate of the last block, growing linearly from 0.
        num_classes: of the published classifier, which is never used and never trained; None
            leaves it out.
        with_cp: recompute block activations in the backward pass instead of storing them.
        use_checkpoint: the older name of ``with_cp``.
        pretrained: checkpoint to initialise from, the older way to say
            ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: what ``init_weights()`` starts from: ``dict(type="Pretrained", checkpoint=FILE)``.
        in_chans: channels of the images.
        features_only: timm's word; a backbone always is what True means.
        sharing_range: see :class:`WarehouseManager`, which takes further keywords.

    What the reference's configs hand on of the ResNet that they inherit from is ignored, with a
    warning, but for ``frozen_stages`` and ``norm_eval``, which they mean. Of their ``width_mult``,
    1 is known.

    Raises:
        ValueError: ``out_indices`` or ``frozen_stages`` out of range; ``pretrained`` beside
            ``init_cfg``; layers do not fit their warehouses.
    """

    published = KW_FILES

    @ignoring_resnet("frozen_stages", "norm_eval")
    def __init__(
        self,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        num_classes: int | None = 1000,
        with_cp: bool = False,
        use_checkpoint: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        in_chans: int = 3,
        features_only: bool = True,
        sharing_range: Sequence[str] | str = ("layer", "pwconv"),
        **warehouses,
    ):
        published = {key: warehouses.pop(key) for key in PUBLISHED if key in warehouses}
        check_published("KW_MobileNetV2", published, PUBLISHED, ())
        if frozen_stages not in range(-1, len(CHANNELS)):
            raise ValueError(
                f"frozen_stages must be -1 (nothing) or the number of an output up to "
                f"{len(CHANNELS) - 1}, got {frozen_stages}"
            )
        init_cfg = pretrained_init(pretrained, init_cfg)
        super().__init__(
            CHANNELS, STRIDES, out_indices, frozen_stages, norm_eval, init_cfg, features_only
        )
        self.with_cp = with_cp or use_checkpoint
        self.warehouse_manager = manager = WarehouseManager(sharing_range, **warehouses)
        stem = manager.conv2d("stage0_conv0", in_chans, STEM, 3, 2, 1)
        self.features = nn.Sequential(ConvNorm(stem))
        in_channels, stage = STEM, GROUPS[0].stage
        rates = drop_path_rates(drop_path_rate, [group.count for group in GROUPS])
        for group, group_rates in zip(GROUPS, rates, strict=True):
            for k, rate in enumerate(group_rates):
                # The first block of a stage belongs to the previous stage's warehouses.
                name = f"stage{group.stage if k else stage}_layer{k}"
                stride = 1 if k else group.stride
                self.features.append(
                    InvertedResidual(manager, name, in_channels, group, stride, rate)
                )
                in_channels = group.channels
            stage = group.stage
        last = manager.conv2d(f"stage{stage}_layer{group.count}_pwconv1", in_channels, LAST, 1)
        self.features.append(ConvNorm(last))
        manager.build(self)
        if num_classes is not None:
            self.classifier = nn.Linear(LAST, num_classes).requires_grad_(False)
        self.freeze()

    def stage_modules(self) -> list[list[nn.Module]]:
        starts = (0, *(output + 1 for output in OUTPUTS))
        return [list(self.features[starts[i] : starts[i + 1]]) for i in range(len(OUTPUTS))]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C_i, ceil(H / s_i), ceil(W / s_i)) per out index.

        s_i is 2, 4, 8, 16, 32. Features after the last output asked for do not run.
        """
        x = fastest_layout(x)
        outs = []
        for i, stage in enumerate(self.stage_modules()[: self.out_indices[-1] + 1]):
            for block in stage:
                x = checkpointed(block, x) if self.with_cp and self.training else block(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


@register(variant=True)
class kw1x_mobilenetv2(KW_MobileNetV2):
    """MobileNetV2 with kernels from warehouses, one cell per block of a kernel."""

    __init__ = partialmethod(KW_MobileNetV2.__init__)


@register(variant=True)
class kw4x_mobilenetv2(KW_MobileNetV2):
    """MobileNetV2 with kernels from warehouses, four cells per block of a kernel."""

    __init__ = partialmethod(KW_MobileNetV2.__init__, cell_num_ratio=4, sharing_range="layer")
