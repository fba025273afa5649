"""RecNeXt: a convolutional pyramid whose token mixers recurse over resolutions.

Paper: "RecNeXt: Efficient Recursive Convolutions for Multi-Frequency Representations",
arXiv 2412.19628 (its method section: recursive convolution, recursive attention, variants). The M
series mixes tokens with a linear U-shaped recursion of depthwise convolutions, the A series with
linear attention at half resolution.

Provenance: written from the paper and a published architecture description; parameter names and
features agree with the authors' published checkpoints (Apache-2.0).

Shape legend: N batch, C channels, H, W map, L tokens (= H * W of the map at hand), h heads,
d head width (C = h * d).
"""

from functools import partialmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models_mm.layers.folding import fold_norm
from models_mm.layers.forms import fastest_layout
from models_mm.layers.norm import BATCH_NORM, build_norm

from .base import Backbone, checkpointed, drop_path_rates, pretrained_init, register
from .published import PublishedFiles
from .reference import ignoring_resnet


class ConvNorm(nn.Module):
    """Convolution without bias, zero padded to keep H, W (at stride 1), then a norm.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_cfg: dict,
        stride: int = 1,
        groups: int = 1,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = build_norm(norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def fuse(self) -> None:
        self.conv, self.norm = fold_norm(self.conv, self.norm)


class InPlaceGELU(nn.GELU):
    """Exact GELU for inference: overwrites its input, which spares the memory of a hidden map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


class ChannelMixer(nn.Sequential):
    """1x1 expansion, exact GELU, 1x1 contraction: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, mlp_ratio: float, norm_cfg: dict):
        hidden = int(mlp_ratio * channels)
        super().__init__(
            ConvNorm(channels, hidden, 1, norm_cfg),
            nn.GELU(),
            ConvNorm(hidden, channels, 1, norm_cfg),
        )

    def fuse(self) -> None:
        self[1] = InPlaceGELU()


class Stem(nn.Module):
    """(N, in_chans, H, W) -> (N, C, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, in_chans: int, channels: int, norm_cfg: dict):
        super().__init__()
        self.stem = nn.Sequential(
            ConvNorm(in_chans, channels // 2, 3, norm_cfg, stride=2),
            nn.GELU(),
            ConvNorm(channels // 2, channels, 3, norm_cfg, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def fuse(self) -> None:
        self.stem[1] = InPlaceGELU()


class Downsample(nn.Module):
    """(N, C, H, W) -> (N, 2C, ceil(H / 2), ceil(W / 2)), two output channels per input channel."""

    def __init__(self, in_channels: int, mlp_ratio: float, norm_cfg: dict):
        super().__init__()
        channels = 2 * in_channels
        self.token_mixer = nn.Conv2d(
            in_channels, channels, 7, stride=2, padding=3, groups=in_channels
        )
        self.norm = build_norm(norm_cfg, channels)
        self.channel_mixer = ChannelMixer(channels, mlp_ratio, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.token_mixer(x))
        return x + self.channel_mixer(x)

    def fuse(self) -> None:
        if not isinstance(self.norm, nn.Identity):
            self.token_mixer, self.norm = fold_norm(self.token_mixer, self.norm)


class RecConv(nn.Module):
    """Recursive depthwise convolution over ``levels`` halvings: (N, C, H, W) -> (N, C, H, W).

    One kernel, ``down``, makes every halving; ``convs[0]`` works at the lowest resolution and
    ``convs[levels]`` at the full one. Linear in x.
    """

    def __init__(self, channels: int, levels: int):
        super().__init__()

        def depthwise(stride):
            return nn.Conv2d(
                channels, channels, 5, stride=stride, padding=2, groups=channels, bias=False
            )

        self.down = depthwise(stride=2)
        self.convs = nn.ModuleList(depthwise(stride=1) for _ in range(levels + 1))

    def forward(self, x: Tensor) -> Tensor:
        lowest, *higher = self.convs
        finer = []
        for _ in higher:
            finer.append(x)
            x = self.down(x)
        x = lowest(x)
        for conv in higher:
            skip = finer.pop()
            # To an explicit size: odd sides do not come back by doubling.
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = conv(x.add_(skip))  # in place: no backward needs the enlarged map
        return x


class LinearAttention(nn.Module):
    """Attention with the kernel elu + 1, plus a depthwise position term: (N, C, H, W) -> same.

    Values are the input itself. Evaluated as q (k v^T), linear in the number of tokens.
    """

    def __init__(self, channels: int, heads: int, norm_cfg: dict):
        super().__init__()
        self.heads = heads
        # Two groups: queries see the first half of the channels, keys the second.
        self.qk = ConvNorm(channels, 2 * channels, 1, norm_cfg, groups=2)
        self.pe = ConvNorm(channels, channels, 3, norm_cfg, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        qk = self.qk(x)  # (N, 2C, H, W)
        # elu + 1, spelled out: the library's elu is not vectorised on CPU (ten times slower).
        qk = qk.clamp(max=0).exp() + qk.clamp(min=0)
        q, k = qk.unflatten(1, (2, self.heads, -1)).flatten(4).unbind(1)  # each (N, h, d, L)
        v = x.unflatten(1, (self.heads, -1)).flatten(3)  # (N, h, d, L)
        # 1 / L as a root on each operand keeps the sum over a large map in half precision's range.
        scale = v.shape[-1] ** -0.5
        kv = (v * scale) @ (k * scale).transpose(-2, -1)  # (N, h, d of v, d of k)
        k_mean = k.mean(-1).unsqueeze(-2)  # (N, h, 1, d)
        # The mean key rides along as row d + 1, so one product makes numerator and denominator.
        out = torch.cat((kv, k_mean), dim=-2) @ q  # (N, h, d + 1, L)
        out = out[:, :, :-1] / (out[:, :, -1:] + 1e-6)  # (N, h, d, L)
        return self.pe(x) + out.reshape(x.shape)  # in this order: the sum takes the layout of x


class RecAttn(nn.Module):
    """Linear attention at half resolution, recursed back: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, heads: int, norm_cfg: dict):
        super().__init__()
        self.down = nn.Sequential(
            ConvNorm(channels, channels, 5, norm_cfg, stride=2, groups=channels),
            LinearAttention(channels, heads, norm_cfg),
        )
        self.conv = ConvNorm(channels, channels, 5, norm_cfg, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        up = F.interpolate(self.down(x), size=x.shape[2:], mode="nearest")
        return self.conv(up.add_(x))  # in place: no backward needs the enlarged map


class BlockM(nn.Module):
    """MetaNeXt block with recursive convolution: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(
        self, channels: int, stage: int, mlp_ratio: float, norm_cfg: dict, drop_path: float
    ):
        super().__init__()
        self.token_mixer = RecConv(channels, levels=4 - stage)
        self.norm = build_norm(norm_cfg, channels)
        self.channel_mixer = ChannelMixer(channels, mlp_ratio, norm_cfg)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.channel_mixer(self.norm(self.token_mixer(x))))

    def fuse(self) -> None:
        convs = self.token_mixer.convs
        convs[-1], self.norm = fold_norm(convs[-1], self.norm)


class BlockA(nn.Module):
    """MetaNeXt block with recursive attention: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(
        self, channels: int, stage: int, mlp_ratio: float, norm_cfg: dict, drop_path: float
    ):
        super().__init__()
        self.token_mixer = RecAttn(channels, heads=2 ** (stage + 1), norm_cfg=norm_cfg)
        self.channel_mixer = ChannelMixer(channels, mlp_ratio, norm_cfg)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.channel_mixer(self.token_mixer(x)))


class Stage(nn.Module):
    """Downsampling (all stages but the first), then blocks at one resolution."""

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module], with_cp: bool):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = checkpointed(block, x) if self.with_cp and self.training else block(x)
        return x


class Variant(NamedTuple):
    """What sets a published model apart: stage i is ``width * 2**i`` wide."""

    series: str
    width: int
    depths: tuple[int, ...]
    mlp_ratio: float


BLOCKS = {"m": BlockM, "a": BlockA}
VARIANTS = {
    "m3": Variant("m", 64, (3, 3, 13, 2), 2),
    "m4": Variant("m", 64, (5, 5, 25, 4), 2),
    "m5": Variant("m", 80, (7, 7, 35, 2), 2),
    "a3": Variant("a", 64, (3, 3, 13, 2), 1.875),
    "a4": Variant("a", 64, (5, 5, 25, 4), 1.875),
    "a5": Variant("a", 80, (7, 7, 35, 2), 1.875),
}


@register()
class RecNeXt(Backbone):
    """RecNeXt, M and A series (arXiv 2412.19628).

    Any H, W >= 1 works: every stride 2 maps a side s to ceil(s / 2). The A series averages over
    the whole map, so the padding of a batch has an influence on an image's features.

    Args:
        arch: variant, one of ``VARIANTS``, or the fields of a :class:`Variant` of your own, e.g.
            ``dict(series='m', width=32, depths=(1, 1, 3, 1), mlp_ratio=2)``.
        out_indices: stages whose outputs are returned, strictly increasing.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages.
        norm_eval: keep every batch norm in eval mode during training.
        norm_cfg: mmcv config of the norms. The published detectors were trained with SyncBN.
        drop_path_rate: stochastic depth rate of the last block, growing linearly from 0.
        with_cp: recompute block activations in the backward pass instead of storing them.
        use_checkpoint: the older name of ``with_cp``.
        pretrained: checkpoint, an older way to say ``init_cfg``.
        init_cfg: what ``init_weights()`` starts from: ``dict(type="Pretrained", checkpoint=FILE)``.
        in_chans: channels of the images.
        features_only: timm's word; a backbone always is what True means.

    The reference's configs hand on the keywords of the ResNet that they inherit from; these are
    ignored, with a warning.

    Raises:
        TypeError: unknown keyword.
        ValueError: unknown ``arch``; ``out_indices`` or ``frozen_stages`` out of range;
            ``pretrained`` beside ``init_cfg``.
    """

    @ignoring_resnet(norm_cfg={"type": "SyncBN", "requires_grad": True})
    def __init__(
        self,
        arch: str | dict = "m3",
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict = BATCH_NORM,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        use_checkpoint: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        in_chans: int = 3,
        features_only: bool = True,
    ):
        init_cfg = pretrained_init(pretrained, init_cfg)
        if isinstance(arch, str) and arch not in VARIANTS:
            raise ValueError(f"arch must be one of {', '.join(VARIANTS)}, got {arch!r}")
        variant = VARIANTS[arch] if isinstance(arch, str) else Variant(**arch)
        series, width, depths, mlp_ratio = variant
        block = BLOCKS[series]
        channels = [width * 2**i for i in range(4)]
        super().__init__(
            channels, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, init_cfg, features_only
        )
        self.stem = Stem(in_chans, width, norm_cfg)
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            downsample = Downsample(channels[i - 1], mlp_ratio, norm_cfg) if i else nn.Identity()
            blocks = [block(channels[i], i, mlp_ratio, norm_cfg, rate) for rate in rates]
            self.stages.append(Stage(downsample, blocks, with_cp or use_checkpoint))
        self.freeze()

    def stage_modules(self) -> list[list[nn.Module]]:
        return [[self.stem], *([stage] for stage in self.stages)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C_i, ceil(H / s_i), ceil(W / s_i)) per out index.

        s_i is the stage's stride: 4, 8, 16, 32. Stages after the last out index do not run.
        """
        x = fastest_layout(x)
        x = self.stem(x)
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = self.stages[i](x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


RELEASES = "https://github.com/suous/RecNeXt/releases/download"


def published_url(file_name: str) -> str:
    """The address of a published file: release 1.0 has the M series, 2.0 the A series."""
    release = "v2.0" if file_name.startswith("recnext_a") else "v1.0"
    return f"{RELEASES}/{release}/{file_name}"


# Classification files hold {"model": state_dict} with two classifiers, the second one for
# distillation; detection has neither. Detection files are in mmdet's own format.
RecNeXt.published = PublishedFiles(
    name="recnext",
    dropped=(
        r"head\.(head|head_dist)\.norm\.(weight|bias|running_mean|running_var|num_batches_tracked)",
        r"head\.(head|head_dist)\.linear\.(weight|bias)",
    ),
    files=r"recnext_[ma]\d_.*\.pth",
    source="https://github.com/suous/RecNeXt (releases v1.0 for M, v2.0 for A)",
    url=published_url,
)


@register(variant=True)
class recnext_m3(RecNeXt):
    """RecNeXt-M3: 3, 3, 13, 2 blocks, 64 to 512 channels, recursive convolution."""

    __init__ = partialmethod(RecNeXt.__init__, "m3")


@register(variant=True)
class recnext_m4(RecNeXt):
    """RecNeXt-M4: 5, 5, 25, 4 blocks, 64 to 512 channels, recursive convolution."""

    __init__ = partialmethod(RecNeXt.__init__, "m4")


@register(variant=True)
class recnext_m5(RecNeXt):
    """RecNeXt-M5: 7, 7, 35, 2 blocks, 80 to 640 channels, recursive convolution."""

    __init__ = partialmethod(RecNeXt.__init__, "m5")


@register(variant=True)
class recnext_a3(RecNeXt):
    """RecNeXt-A3: 3, 3, 13, 2 blocks, 64 to 512 channels, recursive attention."""

    __init__ = partialmethod(RecNeXt.__init__, "a3")


@register(variant=True)
class recnext_a4(RecNeXt):
    """RecNeXt-A4: 5, 5, 25, 4 blocks, 64 to 512 channels, recursive attention."""

    __init__ = partialmethod(RecNeXt.__init__, "a4")


@register(variant=True)
class recnext_a5(RecNeXt):
    """RecNeXt-A5: 7, 7, 35, 2 blocks, 80 to 640 channels, recursive attention."""

    __init__ = partialmethod(RecNeXt.__init__, "a5")
