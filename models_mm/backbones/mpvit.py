"""MPViT: a pyramid whose stages look at the same map at several receptive fields in parallel.

Paper: Lee, Kim, Willette, Hwang, "MPViT: Multi-Path Vision Transformer for Dense Prediction", CVPR
2022, arXiv 2112.11010 (sections 3.2 and 3.3). A chain of separable convolutions makes the tokens of
two or three paths. Each path has its own encoder, with factorised attention and relative positions
by convolution; a residual convolution keeps local detail, and a 1x1 convolution mixes them all.

Provenance: written from the paper and a published architecture description; parameter names and
features agree with the authors' published checkpoints.

Shape legend: N batch, C channels, H, W map, L tokens (= H * W), h heads, d head width (C = h * d).
Convolutions see maps (N, C, H, W) in channels-last layout, linear layers the same memory as
(N, H, W, C).
"""

import math
import re
from collections.abc import Sequence
from functools import partialmethod
from typing import NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from models_mm.errors import CheckpointError
from models_mm.layers.conv_norm import conv_norm, conv_norm_act
from models_mm.layers.folding import fold_norm
from models_mm.layers.forms import fastest_layout, separate_projections
from models_mm.layers.linear import linear, linear_of
from models_mm.layers.mlp import norm_mlp, norm_of
from models_mm.layers.norm import BATCH_NORM, build_norm

from .base import Backbone, checkpointed, drop_path_rates, register
from .published import PublishedFiles

HEADS = 8
WINDOWS = {3: 2, 5: 3, 7: 3}  # kernel size of the relative positions -> heads that it serves
EPS = 1e-6  # of the layer norms


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C), contiguous: a view of a map in channels-last layout."""
    return x.permute(0, 2, 3, 1).contiguous()


def to_map(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def depthwise(channels: int, kernel_size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """Convolution of each channel by itself, zero padded to keep H, W (at stride 1)."""
    padding = kernel_size // 2
    return nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels, bias=bias)


class ConvNorm(nn.Module):
    """Convolution, norm and, if asked for, Hardswish.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_cfg: dict,
        stride: int = 1,
        act: bool = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False
        )
        self.bn = build_norm(norm_cfg, out_channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if self.act:
            return conv_norm_act(self.conv, self.bn, x, "hardswish")
        return conv_norm(self.conv, self.bn, x)

    def fuse(self) -> None:
        self.conv, self.bn = fold_norm(self.conv, self.bn)


class SeparableConv(nn.Module):
    """Depthwise 3x3, pointwise, norm, Hardswish: (N, C, H, W) -> (N, C, ceil(H / stride), ...)."""

    def __init__(self, channels: int, norm_cfg: dict, stride: int):
        super().__init__()
        self.dwconv = depthwise(channels, 3, stride)
        self.pwconv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = build_norm(norm_cfg, channels)

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm_act(self.pwconv, self.bn, self.dwconv(x), "hardswish")

    def fuse(self) -> None:
        self.pwconv, self.bn = fold_norm(self.pwconv, self.bn)


class PatchEmbed(nn.Module):
    """Tokens of one path, one level deeper as the published keys have it."""

    def __init__(self, channels: int, norm_cfg: dict, stride: int):
        super().__init__()
        self.patch_conv = SeparableConv(channels, norm_cfg, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_conv(x)


class PatchEmbeds(nn.Module):
    """A chain, each link the tokens of one path: (N, C, H, W) -> as many maps of one size."""

    def __init__(self, channels: int, paths: int, norm_cfg: dict, stride: int):
        super().__init__()
        self.patch_embeds = nn.ModuleList(
            PatchEmbed(channels, norm_cfg, stride if path == 0 else 1) for path in range(paths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for patch_embed in self.patch_embeds:
            x = patch_embed(x)
            maps.append(x)
        return maps


class ConvPosition(nn.Module):
    """Positions by a depthwise convolution and its input: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj = depthwise(channels, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(x)


class ConvRelativePosition(nn.Module):
    """Depthwise convolutions of three sizes on the values, by heads: (N, C, H, W) -> same."""

    def __init__(self, channels: int):
        super().__init__()
        self.splits = [heads * (channels // HEADS) for heads in WINDOWS.values()]
        self.conv_list = nn.ModuleList(
            depthwise(width, size, bias=True)
            for width, size in zip(self.splits, WINDOWS, strict=True)
        )

    def forward(self, v: Tensor) -> Tensor:
        parts = zip(self.conv_list, v.split(self.splits, 1), strict=True)
        return torch.cat([conv(part) for conv, part in parts], 1)


class FactorisedAttention(nn.Module):
    """Attention of linear cost and relative positions: (N, H, W, C) -> (N, H, W, C).

    Keys are normalised over the tokens, so that keys and values meet in a (d, d) matrix per head.
    """

    def __init__(self, channels: int, crpe: ConvRelativePosition):
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.crpe = crpe

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Attention of ``norm(x)``."""
        weight, bias = self.qkv.weight, self.qkv.bias
        if separate_projections(x):
            layers = list(zip(weight.chunk(3), bias.chunk(3), strict=True))
        else:
            layers = [(weight, bias)]
        parts = linear_of(norm_of(norm), x, [norm.weight, norm.bias], *layers)
        q, k, v = parts if len(parts) == 3 else parts[0].chunk(3, -1)  # each (N, H, W, C)
        position = to_tokens(self.crpe(to_map(v)))
        queries, keys, values = (by_head(y) for y in (q, k.flatten(1, 2).softmax(1), v))
        context = keys.mT @ values * queries.shape[-1] ** -0.5  # (N, h, d, d)
        out = (queries @ context).transpose(1, 2).reshape(x.shape)
        return linear(torch.addcmul(out, q, position), self.proj.weight, self.proj.bias)


def by_head(x: Tensor) -> Tensor:
    """(N, H, W, C) or (N, L, C) -> (N, h, L, d), a view."""
    return x.flatten(1, -2).unflatten(-1, (HEADS, -1)).transpose(1, 2)


class MLP(nn.Module):
    """Linear, exact GELU, linear: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The MLP of ``norm(x)``."""
        return norm_mlp(x, norm, self.fc1, self.fc2)


class Layer(nn.Module):
    """Positions, attention, MLP: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        drop_path: float,
        cpe: ConvPosition,
        crpe: ConvRelativePosition,
    ):
        super().__init__()
        # Modules of the encoder, which published files name in every place that uses them.
        self.cpe = cpe
        self.crpe = crpe
        self.factoratt_crpe = FactorisedAttention(channels, crpe)
        self.mlp = MLP(channels, int(mlp_ratio * channels))
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = to_tokens(self.cpe(x))
        x = x + self.drop_path(self.factoratt_crpe(x, self.norm1))
        x = x + self.drop_path(self.mlp(x, self.norm2))
        return to_map(x)


class Encoder(nn.Module):
    """The transformer of one path, its positions shared by all layers: (N, C, H, W) -> same."""

    def __init__(self, channels: int, mlp_ratio: float, rates: Sequence[float]):
        super().__init__()
        self.cpe = ConvPosition(channels)
        self.crpe = ConvRelativePosition(channels)
        self.MHCA_layers = nn.ModuleList(
            Layer(channels, mlp_ratio, rate, self.cpe, self.crpe) for rate in rates
        )

    def forward(self, x: Tensor, with_cp: bool) -> Tensor:
        for layer in self.MHCA_layers:
            x = checkpointed(layer, x) if with_cp else layer(x)
        return x


class ConvResidual(nn.Module):
    """The local branch: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, norm_cfg: dict):
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 1, norm_cfg)
        self.dwconv = depthwise(channels, 3)
        self.norm = build_norm(norm_cfg, channels)
        self.conv2 = ConvNorm(channels, channels, 1, norm_cfg, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(conv_norm_act(self.dwconv, self.norm, self.conv1(x), "hardswish"))

    def fuse(self) -> None:
        self.dwconv, self.norm = fold_norm(self.dwconv, self.norm)


class Stage(nn.Module):
    """Encoders and the local branch side by side, then mixed: maps (N, C, H, W) -> (N, C', H, W).

    Args:
        channels: C.
        out_channels: C', the width of the next stage.
        paths: encoders.
        mlp_ratio: hidden width of the MLPs over C.
        rates: stochastic depth rate of each layer.
        norm_cfg: config of the norms of convolutions.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        paths: int,
        mlp_ratio: float,
        rates: Sequence[float],
        norm_cfg: dict,
    ):
        super().__init__()
        self.mhca_blks = nn.ModuleList(Encoder(channels, mlp_ratio, rates) for _ in range(paths))
        self.InvRes = ConvResidual(channels, norm_cfg)
        self.aggregate = ConvNorm((paths + 1) * channels, out_channels, 1, norm_cfg)

    def forward(self, maps: Sequence[Tensor], with_cp: bool) -> Tensor:
        local = checkpointed(self.InvRes, maps[0]) if with_cp else self.InvRes(maps[0])
        encoded = (
            encoder(tokens, with_cp) for encoder, tokens in zip(self.mhca_blks, maps, strict=True)
        )
        return self.aggregate(torch.cat((local, *encoded), 1))


class Variant(NamedTuple):
    """What sets a published model apart, by stage; its output is as wide as the next stage."""

    widths: tuple[int, ...]
    layers: tuple[int, ...]
    paths: tuple[int, ...] = (2, 3, 3, 3)
    mlp_ratio: float = 4

    @property
    def channels(self) -> list[int]:
        return [*self.widths[1:], self.widths[-1]]


VARIANTS = {
    "tiny": Variant((64, 96, 176, 216), (1, 2, 4, 1), mlp_ratio=2),
    "xsmall": Variant((64, 128, 192, 256), (1, 2, 4, 1)),
    "small": Variant((64, 128, 216, 288), (1, 3, 6, 3)),
    "base": Variant((128, 224, 368, 480), (1, 3, 8, 3)),
}


@register()
class MPViT(Backbone):
    """MPViT (arXiv 2112.11010).

    Any H, W >= 1 works: every stride 2 maps a side s to ceil(s / 2). Keys are normalised over the
    whole map, so the padding of a batch has an influence on an image's features.

    Args:
        arch: variant, one of ``VARIANTS``, or the fields of a :class:`Variant` of your own, e.g.
            ``dict(widths=(32, 64, 96, 128), layers=(1, 1, 2, 1), paths=(2, 2, 2, 2))``; widths are
            multiples of 8.
        out_indices: stages whose outputs are returned, strictly increasing.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages.
        norm_eval: keep every batch norm in eval mode during training.
        norm_cfg: mmcv config of the norms. The published detectors were trained with SyncBN.
        mlp_ratio: hidden width of the MLPs over their width, or one for each stage; by default the
            variant's.
        drop_path_rate: stochastic depth rate of the last layer, growing linearly from 0.
        with_cp: recompute the activations of layers in the backward pass instead of storing them.
        use_checkpoint: the older name of ``with_cp``.
        init_cfg: what ``init_weights()`` starts from: ``dict(type="Pretrained", checkpoint=FILE)``.
        in_chans: channels of the images.
        features_only: timm's word; a backbone always is what True means.

    Raises:
        ValueError: unknown ``arch``; a width that heads do not divide; ``mlp_ratio`` neither one
            nor four numbers; ``out_indices`` or ``frozen_stages`` out of range.
    """

    def __init__(
        self,
        arch: str | dict = "tiny",
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict = BATCH_NORM,
        mlp_ratio: float | Sequence[float] | None = None,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        use_checkpoint: bool = False,
        init_cfg: dict | None = None,
        in_chans: int = 3,
        features_only: bool = True,
    ):
        if isinstance(arch, str) and arch not in VARIANTS:
            raise ValueError(f"arch must be one of {', '.join(VARIANTS)}, got {arch!r}")
        variant = VARIANTS[arch] if isinstance(arch, str) else Variant(**arch)
        widths, channels, paths = variant.widths, variant.channels, variant.paths
        if any(width % HEADS for width in widths):
            raise ValueError(f"widths must be multiples of {HEADS} (heads), got {widths}")
        ratios = variant.mlp_ratio if mlp_ratio is None else mlp_ratio
        ratios = list(ratios) if isinstance(ratios, Sequence) else [ratios] * 4
        if len(ratios) != 4:
            raise ValueError(f"mlp_ratio must be one number or four, got {mlp_ratio}")
        super().__init__(
            channels, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, init_cfg, features_only
        )
        self.with_cp = with_cp or use_checkpoint
        self.stem = nn.Sequential(
            ConvNorm(in_chans, widths[0] // 2, 3, norm_cfg, stride=2),
            ConvNorm(widths[0] // 2, widths[0], 3, norm_cfg, stride=2),
        )
        self.patch_embed_stages = nn.ModuleList(
            PatchEmbeds(widths[i], paths[i], norm_cfg, stride=2 if i else 1) for i in range(4)
        )
        self.mhca_stages = nn.ModuleList(
            Stage(widths[i], channels[i], paths[i], ratios[i], rates, norm_cfg)
            for i, rates in enumerate(drop_path_rates(drop_path_rate, variant.layers))
        )
        self.apply(initialise)
        self.freeze()

    def stage_modules(self) -> list[list[nn.Module]]:
        stages = zip(self.patch_embed_stages, self.mhca_stages, strict=True)
        return [[self.stem], *(list(stage) for stage in stages)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C_i, ceil(H / s_i), ceil(W / s_i)) per out index.

        s_i is the stage's stride: 4, 8, 16, 32. Stages after the last out index do not run.
        """
        x = fastest_layout(x)  # for CPUs that in which tokens are a contiguous view of the map
        with_cp = self.with_cp and self.training
        x = self.stem(x)
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = self.mhca_stages[i](self.patch_embed_stages[i](x), with_cp)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


def initialise(module: nn.Module) -> None:
    """Initial weights; norms and relative positions start as PyTorch has them."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, ConvResidual):
        # the fan-out of a depthwise convolution is 9 here, and 9 C in a separable one
        nn.init.normal_(module.dwconv.weight, std=math.sqrt(2 / 9))
    elif isinstance(module, (ConvNorm, SeparableConv)):
        for conv in module.children():
            if isinstance(conv, nn.Conv2d):
                fan_out = conv.kernel_size[0] ** 2 * conv.out_channels
                nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))


# detectron2's places of the backbone, the longest first
PREFIXES = ("backbone.bottom_up.backbone.", "bottom_up.backbone.", "backbone.")
CLASSIFIER_KEYS = re.compile(r"cls_head\.cls\.(weight|bias)")
FIRST_LINEAR = "mhca_blks.0.MHCA_layers.0.mlp.fc1.weight"


def adapt(entries: dict, backbone: nn.Module) -> dict:
    """Drop detectron2's prefix of the backbone's keys.

    Raises:
        CheckpointError: the file's MLPs are of another ratio than the model's.
    """
    adapted = {bare(key): value for key, value in entries.items()}
    if len(adapted) < len(entries):
        raise CheckpointError("some of its keys differ in nothing but the prefix")
    theirs, ours = mlp_ratios(adapted), mlp_ratios(backbone.state_dict())
    if theirs and theirs != ours:
        raise CheckpointError(
            f"the file's MLP ratios are {theirs} and the model's {ours}: set "
            f"model.backbone.mlp_ratio={theirs} to use it"
        )
    return adapted


def bare(key: str) -> str:
    """A backbone's key without detectron2's prefix, or any part of it."""
    return next((key[len(prefix) :] for prefix in PREFIXES if key.startswith(prefix)), key)


def mlp_ratios(entries: dict) -> list[float]:
    """Hidden width over width of the MLPs, by stage; of a file without MPViT's stages, nothing."""
    weights = [entries.get(f"mhca_stages.{i}.{FIRST_LINEAR}") for i in range(4)]
    if any(weight is None or weight.dim() != 2 for weight in weights):
        return []
    ratios = [len(weight) / weight.shape[1] for weight in weights]
    return [int(ratio) if ratio.is_integer() else ratio for ratio in ratios]


# The files were made by and for detectron2. Classification files hold {"model": state_dict} with a
# classifier; those for detection have none, and the backbone's place in a detectron2 detector
# before every key, of which a file may lack any part. Whole detectors have to be converted.
MPViT.published = PublishedFiles(
    name="mpvit",
    dropped=(
        CLASSIFIER_KEYS.pattern,
        r"pixel_(mean|std)",
        # of detectron2's FPN, which counts as backbone there
        r"fpn_(lateral|output)[2-5]\.(weight|bias)",
        r"top_block\.p[67]\.(weight|bias)",
    ),
    files=r"(retinanet_|mask_rcnn_)?mpvit_(tiny|xsmall|xs|small|base)(_d2|_1x|_ms_3x)?\.pth",
    source="https://github.com/youngwanLEE/MPViT",
    adapt=adapt,
)


@register(variant=True)
class mpvit_tiny(MPViT):
    """MPViT-T: 1, 2, 4, 1 layers in 2, 3, 3, 3 paths, MLP ratio 2."""

    __init__ = partialmethod(MPViT.__init__, "tiny")


@register(variant=True)
class mpvit_xsmall(MPViT):
    """MPViT-XS: 1, 2, 4, 1 layers in 2, 3, 3, 3 paths, MLP ratio 4."""

    __init__ = partialmethod(MPViT.__init__, "xsmall")


@register(variant=True)
class mpvit_small(MPViT):
    """MPViT-S: 1, 3, 6, 3 layers in 2, 3, 3, 3 paths, MLP ratio 4."""

    __init__ = partialmethod(MPViT.__init__, "small")


@register(variant=True)
class mpvit_base(MPViT):
    """MPViT-B: 1, 3, 8, 3 layers in 2, 3, 3, 3 paths, MLP ratio 4."""

    __init__ = partialmethod(MPViT.__init__, "base")
