"""ResNet with convolutions from kernel warehouses.

Papers: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385; Li, Yao,
"KernelWarehouse: Rethinking the Design of Dynamic Convolution", ICML 2024 (arXiv 2406.07879). All
kernels but those of the stem and of what reads its output come from warehouses.

Provenance: written from the papers and a published architecture description; parameter names and
features agree with the authors' published checkpoints (Apache-2.0). The plain ResNet is mmdet's.

Shape legend: N batch, C channels, H, W map.
"""

from collections.abc import Callable, Sequence
from functools import partialmethod

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models_mm.layers.folding import fold_norms
from models_mm.layers.forms import fastest_layout
from models_mm.layers.warehouse import WarehouseConv2d, WarehouseManager, pool

from .base import Backbone, checkpointed, pretrained_init, register
from .kernelwarehouse import KW_FILES
from .reference import ignoring_resnet

WIDTHS = (64, 128, 256, 512)
# (handed over to the previous stage, token, in, out, kernel size, stride) -> convolution
Maker = Callable[[bool, str, int, int, int, int], nn.Module]


class Block(nn.Module):
    """Residual block: (N, in_channels, H, W) -> (N, expansion * width, H / stride, W / stride).

    Args:
        make: makes a convolution.
        in_channels: of the input.
        width: C of the branch.
        stride: of the block.
        first: whether it is the stage's first block, whose convolutions that read the input belong
            to the previous stage's warehouse.
        drop_path: stochastic depth rate.
    """

    expansion: int

    def __init__(
        self,
        make: Maker,
        in_channels: int,
        width: int,
        stride: int,
        first: bool,
        drop_path: float,
    ):
        super().__init__()
        out_channels = self.expansion * width
        for i, conv in enumerate(self.branch(make, in_channels, width, stride, first), start=1):
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(conv.out_channels))
        self.downsample = None
        if first and (stride != 1 or in_channels != out_channels):
            self.downsample = nn.Sequential(
                make(first, "conv0", in_channels, out_channels, 1, stride),
                nn.BatchNorm2d(out_channels),
            )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def pairs(self) -> list[tuple[str, str]]:
        """Names of the branch's convolutions, each with its norm's."""
        return [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(self, f"conv{i}")]

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        known = ()
        if self.downsample is not None and isinstance(self.conv1, WarehouseConv2d):
            x, pooled = pool(x)  # the same for both that read it
            known = (pooled,)
        out = self.bn1(self.conv1(x, *known))
        for conv, norm in self.pairs()[1:]:
            out = getattr(self, norm)(getattr(self, conv)(F.relu(out, inplace=True)))
        if self.downsample is not None:
            conv, norm = self.downsample
            shortcut = norm(conv(x, *known))
        out = self.drop_path(out)
        out += shortcut
        return F.relu(out, inplace=True)

    def fuse(self) -> None:
        fold_norms(self, *self.pairs())
        if self.downsample is not None:
            fold_norms(self.downsample, ("0", "1"))


class BasicBlock(Block):
    """Two 3x3 convolutions."""

    expansion = 1

    @staticmethod
    def branch(make: Maker, in_channels: int, width: int, stride: int, first: bool):
        yield make(first, "conv0", in_channels, width, 3, stride)
        yield make(False, "conv1", width, width, 3, 1)


class Bottleneck(Block):
    """1x1, 3x3 with the stride, 1x1 to four times the width."""

    expansion = 4

    @staticmethod
    def branch(make: Maker, in_channels: int, width: int, stride: int, first: bool):
        yield make(first, "conv0", in_channels, width, 1, 1)
        yield make(False, "conv1", width, width, 3, stride)
        yield make(False, "conv2", width, 4 * width, 1, 1)


VARIANTS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


@register()
class KW_ResNet(Backbone):
    """ResNet with kernels from warehouses (ICML 2024).

    Any H, W >= 1 works: every stride 2 maps a side s to ceil(s / 2). Attentions average over the
    whole map, so the padding of a batch has an influence on an image's features. The cells are no
    part of any stage: they learn whatever is frozen, as in the published training.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_indices: stages whose outputs are returned, strictly increasing.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages.
        norm_eval: keep every batch norm in eval mode during training, those of attentions too. A
            batch of one image needs it.
        drop_path_rate: stochastic depth rate of every block.
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
    warning, but for ``depth``, ``frozen_stages`` and ``norm_eval``, which they mean.

    Raises:
        ValueError: unknown ``depth``; ``out_indices`` or ``frozen_stages`` out of range;
            ``pretrained`` beside ``init_cfg``; layers do not fit their warehouses.
    """

    published = KW_FILES

    @ignoring_resnet("depth", "frozen_stages", "norm_eval")
    def __init__(
        self,
        depth: int = 50,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.1,
        num_classes: int | None = 1000,
        with_cp: bool = False,
        use_checkpoint: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        in_chans: int = 3,
        features_only: bool = True,
        sharing_range: Sequence[str] | str = ("layer", "conv"),
        **warehouses,
    ):
        if depth not in VARIANTS:
            raise ValueError(f"depth must be one of {', '.join(map(str, VARIANTS))}, got {depth}")
        block, depths = VARIANTS[depth]
        channels = [block.expansion * width for width in WIDTHS]
        init_cfg = pretrained_init(pretrained, init_cfg)
        super().__init__(
            channels, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, init_cfg, features_only
        )
        self.with_cp = with_cp or use_checkpoint
        self.warehouse_manager = WarehouseManager(sharing_range, **warehouses)
        self.conv1 = nn.Conv2d(in_chans, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for s, (width, count) in enumerate(zip(WIDTHS, depths, strict=True)):
            layer = nn.Sequential()
            for k in range(count):
                stride = 2 if s and not k else 1
                make = self._maker(s, k)
                layer.append(block(make, in_channels, width, stride, k == 0, drop_path_rate))
                in_channels = channels[s]
            self.add_module(f"layer{s + 1}", layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.warehouse_manager.build(self)
        if num_classes is not None:
            self.fc = nn.Linear(in_channels, num_classes).requires_grad_(False)
        self.freeze()

    def _maker(self, stage: int, block: int) -> Maker:
        def make(handed_over, token, in_channels, out_channels, kernel_size, stride):
            shape = (in_channels, out_channels, kernel_size, stride, kernel_size // 2)
            if handed_over and stage == 0:  # there is no stage before
                return nn.Conv2d(*shape, bias=False)
            name = f"stage{stage - handed_over}_layer{block}_{token}"
            return self.warehouse_manager.conv2d(name, *shape)

        return make

    def stage_modules(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], *([getattr(self, f"layer{i}")] for i in (1, 2, 3, 4))]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C_i, ceil(H / s_i), ceil(W / s_i)) per out index.

        s_i is the stage's stride: 4, 8, 16, 32. Stages after the last out index do not run.
        """
        x = fastest_layout(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        outs = []
        for i in range(self.out_indices[-1] + 1):
            for block in getattr(self, f"layer{i + 1}"):
                x = checkpointed(block, x) if self.with_cp and self.training else block(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def fuse(self) -> "KW_ResNet":
        super().fuse()
        fold_norms(self, ("conv1", "bn1"))
        return self


@register(variant=True)
class kw1x_resnet50(KW_ResNet):
    """ResNet-50 with kernels from warehouses, one cell per block of a kernel."""

    __init__ = partialmethod(KW_ResNet.__init__, 50)


@register(variant=True)
class kw4x_resnet50(KW_ResNet):
    """ResNet-50 with kernels from warehouses, four cells per block of a kernel."""

    __init__ = partialmethod(KW_ResNet.__init__, 50, cell_num_ratio=4)
