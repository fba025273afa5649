"""ConvNeXt, with plain kernels and with kernels from warehouses.

Papers: Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545; Li, Yao, "KernelWarehouse:
Rethinking the Design of Dynamic Convolution", ICML 2024 (arXiv 2406.07879). Both networks are one
class; they differ in who makes their convolutions.

Provenance: written from the papers and a published architecture description; parameter names and
features agree with the authors' published checkpoints (MIT, and Apache-2.0 for the warehouses').

Shape legend: N batch, C channels, H, W map.
"""

import re
from collections.abc import Sequence
from functools import partialmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models_mm.layers.forms import fastest_layout
from models_mm.layers.warehouse import WAREHOUSE_SETTINGS, WarehouseManager

from .base import Backbone, checkpointed, drop_path_rates, pretrained_init, register
from .kernelwarehouse import check_cells
from .published import PublishedFiles
from .reference import check_published, variant_of


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every position: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pointwise(nn.Linear):
    """Linear layer over the channels of every position: (N, C, H, W) -> (N, C', H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """(N, C, H, W) -> (N, C, H, W)."""

    def __init__(
        self,
        channels: int,
        dwconv: nn.Module,
        pwconv1: nn.Module,
        pwconv2: nn.Module,
        gamma: nn.Parameter | None,
        drop_path: float,
    ):
        super().__init__()
        self.gamma = gamma
        self.dwconv = dwconv
        self.norm = ChannelNorm(channels)
        self.pwconv1 = pwconv1
        self.pwconv2 = pwconv2
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        if self.gamma is not None:
            out = out * self.gamma.view(-1, 1, 1)
        return x + self.drop_path(out)


class Variant(NamedTuple):
    """Blocks and channels of each stage."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]


VARIANTS = {"t": Variant((3, 3, 9, 3), (96, 192, 384, 768))}


# The reference's keywords that name a variant.
NAMED = {name: variant._asdict() for name, variant in VARIANTS.items()}


@register()
class ConvNeXt(Backbone):
    """ConvNeXt (arXiv 2201.03545), for detection.

    H and W from 32: strides take whole patches only, what is left over on the right and below is
    dropped, so that a side s becomes floor(s / stride).

    Args:
        arch: variant, one of ``VARIANTS``, or the fields of a :class:`Variant` of your own. By
            default what the reference's keywords ``depths`` and ``dims`` say, else 't'.
        out_indices: stages whose outputs are returned, strictly increasing. The norms of other
            stages' outputs are there without being used or trained.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages.
        norm_eval: there are no batch norms; accepted as by all backbones.
        drop_path_rate: stochastic depth rate of the last block, growing linearly from 0.
        layer_scale_init_value: initial factor of every branch; 0 or less for none.
        with_cp: recompute block activations in the backward pass instead of storing them.
        use_checkpoint: the older name of ``with_cp``.
        pretrained: checkpoint to initialise from, the older way to say
            ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: what ``init_weights()`` starts from: ``dict(type="Pretrained", checkpoint=FILE)``.
        in_chans: channels of the images.
        features_only: timm's word; a backbone always is what True means.

    Raises:
        TypeError: unknown keyword, or ``arch`` given together with those that name a variant.
        ValueError: unknown ``arch``; ``out_indices`` or ``frozen_stages`` out of range;
            ``pretrained`` beside ``init_cfg``.
    """

    def __init__(
        self,
        arch: str | dict | None = None,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        with_cp: bool = False,
        use_checkpoint: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        in_chans: int = 3,
        features_only: bool = True,
        **naming,
    ):
        check_published("ConvNeXt", naming, {}, Variant._fields)
        depths, dims = variant_of("ConvNeXt", arch, naming, VARIANTS, NAMED)
        init_cfg = pretrained_init(pretrained, init_cfg)
        super().__init__(
            dims, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, init_cfg, features_only
        )
        self.with_cp = with_cp or use_checkpoint
        self.before_layers()
        stem = nn.Sequential(
            self.patches("stagestem_conv0", in_chans, dims[0], 4), ChannelNorm(dims[0])
        )
        self.downsample_layers = nn.ModuleList([stem])
        for i in range(3):
            conv = self.patches(f"stage{i}_layerds_conv0", dims[i], dims[i + 1], 2)
            self.downsample_layers.append(nn.Sequential(ChannelNorm(dims[i]), conv))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    self.block(f"stage{i}_layer{j}", dims[i], layer_scale_init_value, rate)
                    for j, rate in enumerate(rates)
                )
            )
            for i, rates in enumerate(drop_path_rates(drop_path_rate, depths))
        )
        for i, channels in enumerate(dims):
            norm = ChannelNorm(channels).requires_grad_(i in self.out_indices)
            self.add_module(f"norm{i}", norm)
        self.after_layers()
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.freeze()

    def before_layers(self) -> None:
        """What must be there when layers are made."""

    def after_layers(self) -> None:
        """What needs all layers."""

    def patches(self, name: str, in_channels: int, out_channels: int, size: int) -> nn.Module:
        """Convolution of patches that do not overlap."""
        return nn.Conv2d(in_channels, out_channels, size, size)

    def block(self, name: str, channels: int, scale: float, drop_path: float) -> Block:
        return Block(
            channels,
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Pointwise(channels, 4 * channels),
            Pointwise(4 * channels, channels),
            nn.Parameter(torch.full((channels,), scale)) if scale > 0 else None,
            drop_path,
        )

    def stage_modules(self) -> list[list[nn.Module]]:
        def stage(i):
            before = [self.downsample_layers[i]] if i else []
            return [*before, self.stages[i], getattr(self, f"norm{i}")]

        return [[self.downsample_layers[0]], *(stage(i) for i in range(4))]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C_i, H // s_i, W // s_i) per out index.

        s_i is the stage's stride: 4, 8, 16, 32. Stages after the last out index do not run.

        Raises:
            ValueError: H or W is below the last stage's stride.
        """
        last = self.out_indices[-1]
        if min(x.shape[2:]) < 4 * 2**last:
            raise ValueError(
                f"images of {x.shape[2]}x{x.shape[3]} pixels are too small: ConvNeXt needs "
                f"{4 * 2**last} a side for the output of stage {last}"
            )
        x = fastest_layout(x)
        outs = []
        for i in range(last + 1):
            x = self.downsample_layers[i](x)
            for block in self.stages[i]:
                x = checkpointed(block, x) if self.with_cp and self.training else block(x)
            if i in self.out_indices:
                outs.append(getattr(self, f"norm{i}")(x))
        return tuple(outs)


@register()
class KW_ConvNeXt(ConvNeXt):
    """ConvNeXt with kernels from warehouses (ICML 2024).

    Attentions average over the whole map, so the padding of a batch has an influence on an image's
    features. The cells are no part of any stage: they learn whatever is frozen.

    Args:
        args, settings: as of :class:`ConvNeXt`, and of :class:`WarehouseManager`.
        sharing_range: see :class:`WarehouseManager`.
    """

    def __init__(self, *args, sharing_range: Sequence[str] | str = ("layer", "pwconv"), **settings):
        warehouses = {key: settings.pop(key) for key in WAREHOUSE_SETTINGS if key in settings}
        self._warehouses = dict(sharing_range=sharing_range, norm="LN", **warehouses)
        super().__init__(*args, **settings)

    def before_layers(self) -> None:
        self.warehouse_manager = WarehouseManager(**self._warehouses)

    def after_layers(self) -> None:
        self.warehouse_manager.build(self)

    def patches(self, name: str, in_channels: int, out_channels: int, size: int) -> nn.Module:
        conv2d = self.warehouse_manager.conv2d
        return conv2d(name, in_channels, out_channels, size, size, bias=True)

    def block(self, name: str, channels: int, scale: float, drop_path: float) -> Block:
        conv2d = self.warehouse_manager.conv2d
        return Block(
            channels,
            conv2d(f"{name}_dwconv0", channels, channels, 7, 1, 3, groups=channels, bias=True),
            conv2d(f"{name}_pwconv1", channels, 4 * channels, 1, bias=True),
            conv2d(f"{name}_pwconv2", 4 * channels, channels, 1, bias=True),
            nn.Parameter(torch.full((1, channels, 1, 1), scale)) if scale > 0 else None,
            drop_path,
        )


def with_output_norms(entries: dict, backbone: nn.Module) -> dict:
    """A classification file and the norms of detection's outputs, which it has none of."""
    if not any(re.match(r"norm[0-3]\.", key) for key in entries):
        own = backbone.state_dict()
        entries = entries | {k: own[k] for k in own if re.match(r"norm[0-3]\.", k)}
    return check_cells(entries, backbone)


# The final norm and classifier of classification files have no use in detection.
ConvNeXt.published = PublishedFiles(
    name="convnext", dropped=(r"(norm|head)\.(weight|bias)",), adapt=with_output_norms
)


# mmdet's layer-wise decay of learning rates asks for "ConvNeXt" in a class's name.
@register("convnext_t", variant=True)
class ConvNeXt_T(ConvNeXt):
    """ConvNeXt-T: 3, 3, 9, 3 blocks, 96 to 768 channels."""

    __init__ = partialmethod(ConvNeXt.__init__, "t")


@register("kw1x_convnext_t", variant=True)
class KW1x_ConvNeXt_T(KW_ConvNeXt):
    """ConvNeXt-T with kernels from warehouses, one cell per block of a kernel."""

    __init__ = partialmethod(KW_ConvNeXt.__init__, "t")


convnext_t, kw1x_convnext_t = ConvNeXt_T, KW1x_ConvNeXt_T
