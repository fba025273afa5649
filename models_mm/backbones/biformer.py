"""BiFormer: a pyramid vision transformer whose attention is routed between windows.

Paper: "BiFormer: Vision Transformer with Bi-Level Routing Attention", arXiv 2303.08810 (routing:
its section 3; architecture: section 4). The first three stages attend within the windows that the
routing selects, the last one globally; depthwise convolutions add positions and local context.

Provenance: written from the paper and a published architecture description; parameter names and
features agree with the authors' published checkpoints (MIT).

Shape legend: N batch, C channels, H, W map, T tokens (= H * W of the last stage), h heads, d head
width (C = h * d).
"""

from collections.abc import Sequence
from functools import partialmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models_mm.layers.folding import fold_norm
from models_mm.layers.forms import fastest_layout, round_up, traceable
from models_mm.layers.routing_attention import routing_attention

from .base import Backbone, checkpointed, drop_path_rates, pretrained_init, register
from .published import PublishedFiles
from .reference import check_published, variant_of

GRID = 16  # windows per side; their size follows the image
HEAD_WIDTH = 32  # of the routing stages
GLOBAL_HEADS = 8  # of the last stage
TOPKS = (1, 4, 16)  # windows that a window attends to, by routing stage
MLP_RATIO = 3
EPS = 1e-6  # of the layer norms


def channels_first(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W): a view; of a contiguous map in the channels_last layout."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C), the inverse view."""
    return x.permute(0, 2, 3, 1)


def depthwise(channels: int, kernel_size: int) -> nn.Conv2d:
    """Depthwise convolution with bias, zero padded to keep H, W."""
    return nn.Conv2d(
        channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=True
    )


class Downsample(nn.Sequential):
    """Strided 3x3 convolutions, a batch norm after each and an exact GELU between two.

    (N, C', H, W) -> (N, C, ceil(H / 2**n), ceil(W / 2**n)) with n convolutions.
    """

    def __init__(self, *channels: int):
        layers = []
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [nn.GELU()] if layers else []
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after)]
        super().__init__(*layers)

    def fuse(self) -> None:
        for i, layer in enumerate(self):
            if isinstance(layer, _BatchNorm):
                self[i - 1], self[i] = fold_norm(self[i - 1], layer)


class QKV(nn.Module):
    """The projection to queries, keys and values, one level deeper as the published keys have it.

    (N, H, W, C) -> (N, H, W, 3C).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x)


class RoutingAttention(nn.Module):
    """Bi-level routing attention with a depthwise term on the values: (N, H, W, C) -> same."""

    def __init__(self, channels: int, topk: int):
        super().__init__()
        self.topk = topk
        self.heads = channels // HEAD_WIDTH
        self.scale = channels**-0.5  # of the full width, not of a head's
        self.lepe = depthwise(channels, 5)
        self.qkv = QKV(channels)
        self.wo = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = round_up(height, GRID) // GRID, round_up(width, GRID) // GRID
        # Windows without a real pixel are candidates as keys, but nobody reads their queries.
        touched = (round_up(height, window[0]), round_up(width, window[1]))
        whole = (GRID * window[0], GRID * window[1])
        if traceable():
            touched = whole
        # A pixel of the padding is zero before the projection, hence the bias after it.
        biases = self.qkv.qkv.bias.chunk(3)
        q, k, v = self.qkv(x).chunk(3, -1)  # each (N, H, W, C)
        q = _pad(q, touched, biases[0])
        k, v = _pad(k, whole, biases[1]), _pad(v, whole, biases[2])
        out = routing_attention(q, k, v, self.heads, GRID, self.topk, self.scale)
        # The kernel reaches two pixels into the padding. A copy, for the convolution would keep a
        # view of v, and with it queries and keys.
        if not traceable():
            v = v[:, : height + 2, : width + 2].contiguous()
        lepe = channels_last(self.lepe(channels_first(v)))[:, :height, :width]
        return self.wo(out[:, :height, :width] + lepe)


def _pad(x: Tensor, size: tuple[int, int], value: Tensor) -> Tensor:
    """Extend (N, H, W, C) to the bottom and right to ``size`` by pixels of ``value`` (C)."""
    value = value.to(x.dtype)
    n, height, width, channels = x.shape
    if traceable() or width < size[1]:
        x = torch.cat((x, value.expand(n, height, size[1] - width, channels)), 2)
    if traceable() or height < size[0]:
        x = torch.cat((x, value.expand(n, size[0] - height, size[1], channels)), 1)
    return x


class GlobalAttention(nn.Module):
    """Attention over the whole map, a depthwise term on its input: (N, H, W, C) -> same."""

    def __init__(self, channels: int):
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.lepe = depthwise(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, GLOBAL_HEADS, -1))  # (N, T, 3, h, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (N, h, T, d)
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).reshape(x.shape)
        return self.proj(out + channels_last(self.lepe(channels_first(x))))


class MLP(nn.Sequential):
    """Expansion, exact GELU, contraction: (..., C) -> (..., C)."""

    def __init__(self, channels: int):
        hidden = MLP_RATIO * channels
        super().__init__(
            nn.Linear(channels, hidden),
            nn.Identity(),  # a place in the published keys
            nn.GELU(),
            nn.Linear(hidden, channels),
        )


class Block(nn.Module):
    """Positions, attention, channel mixing: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, attention: nn.Module, drop_path: float):
        super().__init__()
        self.pos_embed = depthwise(channels, 3)
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.mlp = MLP(channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x + self.pos_embed(x))
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return channels_first(x)


class Variant(NamedTuple):
    """What sets a published model apart: stage i is ``width * 2**i`` wide."""

    width: int
    depths: tuple[int, ...] = (4, 4, 18, 4)

    @property
    def channels(self) -> list[int]:
        return [self.width * 2**i for i in range(4)]


VARIANTS = {"s": Variant(64), "b": Variant(96)}

# The reference's further keywords: those with the one value that every published row has, ...
PUBLISHED = {
    **{"head_dim": HEAD_WIDTH, "qk_scale": None, "drop_rate": 0, "n_win": GRID},
    **{"kv_downsample_mode": "identity", "topks": [*TOPKS, -2], "mlp_ratios": [MLP_RATIO] * 4},
    **{"side_dwconv": 5, "before_attn_dwconv": 3, "layer_scale_init_value": -1},
    **{"param_routing": False, "diff_routing": False, "soft_routing": False, "pre_norm": True},
    **{"pe": None, "auto_pad": True, "param_attention": "qkvo", "mlp_dwconv": False},
}
# ... those that then have no effect, and those that name the variant.
WITHOUT_EFFECT = {
    *("num_classes", "representation_size", "kv_per_wins", "kv_downsample_kernels"),
    *("kv_downsample_ratios", "pe_stages"),
}
NAMING = ("embed_dim", "qk_dims", "depth")
NAMED = {
    name: dict(zip(NAMING, (v.channels, v.channels, v.depths), strict=True))
    for name, v in VARIANTS.items()
}


@register("BiFormer", "BiFormer_mm")
class BiFormer(Backbone):
    """BiFormer (arXiv 2303.08810).

    Any H, W >= 1 works: every stride 2 maps a side s to ceil(s / 2). The windows divide the whole
    map, so the padding of a batch has an influence on an image's features.

    Args:
        arch: variant, one of ``VARIANTS``, or the fields of a :class:`Variant` of your own, e.g.
            ``dict(width=32, depths=(1, 1, 2, 1))``. By default what ``embed_dim`` says, else 's'.
        out_indices: stages whose outputs are returned, strictly increasing. What only another
            output needs does not run and has no gradient.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages with their
            output norms.
        norm_eval: keep every batch norm in eval mode during training (default, as published).
        disable_bn_grad: switch off the gradients of the batch norms' weights too.
        drop_path_rate: stochastic depth rate of the last block, growing linearly from 0.
        with_cp: recompute block activations in the backward pass instead of storing them.
        use_checkpoint: the older name of ``with_cp``.
        use_checkpoint_stages: stages to do so in, if not in all.
        pretrained: checkpoint, an older way to say ``init_cfg``.
        init_cfg: what ``init_weights()`` starts from: ``dict(type="Pretrained", checkpoint=FILE)``.
        in_chans: channels of the images.
        features_only: timm's word; a backbone always is what True means.
        published: the reference's further keywords, for its configs. ``embed_dim``, ``qk_dims``
            and ``depth`` name a variant; those without an effect are ignored; the others must have
            the value of the published rows (``PUBLISHED``).

    Raises:
        TypeError: unknown keyword, or ``arch`` given together with the keywords that name one.
        ValueError: unknown ``arch``; a keyword's value is not the published one; ``out_indices``,
            ``frozen_stages`` or ``use_checkpoint_stages`` out of range.
    """

    def __init__(
        self,
        arch: str | dict | None = None,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = True,
        disable_bn_grad: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        use_checkpoint: bool = False,
        use_checkpoint_stages: Sequence[int] = (),
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        in_chans: int = 3,
        features_only: bool = True,
        **published,
    ):
        naming = {key: published.pop(key) for key in NAMING if key in published}
        check_published("BiFormer", published, PUBLISHED, WITHOUT_EFFECT)
        variant = variant_of("BiFormer", arch, naming, VARIANTS, NAMED)
        if not set(use_checkpoint_stages) <= set(range(4)):
            raise ValueError(f"use_checkpoint_stages must be out of 0..3: {use_checkpoint_stages}")
        init_cfg = pretrained_init(pretrained, init_cfg)
        channels = variant.channels
        super().__init__(
            channels, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, init_cfg, features_only
        )
        self.checkpointed_stages = frozenset(
            range(4) if with_cp or use_checkpoint else use_checkpoint_stages
        )
        self.downsample_layers = nn.ModuleList(
            [Downsample(in_chans, channels[0] // 2, channels[0])]
        )
        for before, after in zip(channels, channels[1:], strict=False):
            self.downsample_layers.append(Downsample(before, after))
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, variant.depths)):
            blocks = (Block(channels[i], _attention(channels[i], i), rate) for rate in rates)
            self.stages.append(nn.Sequential(*blocks))
        self.extra_norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for width in channels)
        self.apply(_initialise)
        self._freeze_unused(disable_bn_grad)
        self.freeze()

    def _freeze_unused(self, batch_norms: bool) -> None:
        """Switch off the gradients of parts that do not run, and perhaps those of batch norms.

        DDP would wait for gradients that never come.
        """
        for i in range(4):
            if i not in self.out_indices:
                self.extra_norms[i].requires_grad_(False)
            if i > self.out_indices[-1]:
                self.downsample_layers[i].requires_grad_(False)
                self.stages[i].requires_grad_(False)
        if batch_norms:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)

    def stage_modules(self) -> list[list[nn.Module]]:
        stem, *downsamples = self.downsample_layers
        groups = [[stage, norm] for stage, norm in zip(self.stages, self.extra_norms, strict=True)]
        for group, downsample in zip(groups[1:], downsamples, strict=True):
            group.append(downsample)
        return [[stem], *groups]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C_i, ceil(H / s_i), ceil(W / s_i)) per out index.

        s_i is the stage's stride: 4, 8, 16, 32. Stages after the last out index do not run. Output
        norms are for the reader: the next stage goes on with the map before its norm.
        """
        x = fastest_layout(x)  # for CPUs that in which (N, H, W, C) is a contiguous view
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = self.downsample_layers[i](x)
            recomputed = i in self.checkpointed_stages and self.training
            for block in self.stages[i]:
                x = checkpointed(block, x) if recomputed else block(x)
            if i in self.out_indices:
                outs.append(channels_first(self.extra_norms[i](channels_last(x))).contiguous())
        return tuple(outs)


def _attention(channels: int, stage: int) -> nn.Module:
    if stage == len(TOPKS):
        return GlobalAttention(channels)
    return RoutingAttention(channels, TOPKS[stage])


def _initialise(module: nn.Module) -> None:
    """Linear layers from a normal distribution; all else starts as PyTorch has it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


OUTPUT_NORMS = "extra_norms."


def adapt(entries: dict, backbone: nn.Module) -> dict:
    """Add the output norms as they are to a file that has none of them."""
    if any(key.startswith(OUTPUT_NORMS) for key in entries):
        return entries
    own = backbone.state_dict()
    return entries | {key: own[key] for key in own if key.startswith(OUTPUT_NORMS)}


# Classification files hold {"model": state_dict} with a batch norm and a classifier at the end,
# which detection has not; detection normalises each output instead, and those norms start fresh.
# Detection files are in mmdet's own format and complete.
BiFormer.published = PublishedFiles(
    name="biformer",
    dropped=(
        r"norm\.(weight|bias|running_mean|running_var|num_batches_tracked)",
        r"head\.(weight|bias)",
    ),
    files=r"biformer_(small|base)_best.*\.pth",
    source="https://github.com/rayleizhu/BiFormer",
    adapt=adapt,
)


@register(variant=True)
class biformer_s(BiFormer):
    """BiFormer-S: 4, 4, 18, 4 blocks, 64 to 512 channels."""

    __init__ = partialmethod(BiFormer.__init__, "s")


@register(variant=True)
class biformer_b(BiFormer):
    """BiFormer-B: 4, 4, 18, 4 blocks, 96 to 768 channels."""

    __init__ = partialmethod(BiFormer.__init__, "b")
