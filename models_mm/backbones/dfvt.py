"""DFvT: a window transformer at half resolution, twice fused with a light convolution path.

Paper: Gao, Nie, Li, Ren, "Doubly-Fused ViT: Fuse Information from Vision Transformer Doubly with
Local Representation", ECCV 2022. In every stage the convolution path works at full resolution and
feeds the transformer, whose blocks look at it again through a gate; for detection the transformer's
output is enlarged and fused with the convolution path's.

Provenance: written from the paper and a published architecture description; parameter names and
features agree with the authors' implementation.

Shape legend: N batch, C channels, H, W map of the stage, h, w map of its transformer (half of H, W,
rounded up; the last stage's transformer works at H, W). Convolutions see maps (N, C, H, W), the
transformer sees the same memory as (N, h, w, C).
"""

import math
import re
from functools import partialmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models_mm.errors import CheckpointError
from models_mm.layers.conv_norm import conv_norm, conv_norm_act, pointwise
from models_mm.layers.folding import fold_norm
from models_mm.layers.forms import fastest_layout, round_up, traceable
from models_mm.layers.window_attention import WindowAttention

from .base import Backbone, checkpointed, drop_path_rates, pretrained_init, register
from .published import PublishedFiles
from .reference import check_published, variant_of

WINDOW = 7


def depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution of each channel by itself."""
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def dense(in_channels: int, out_channels: int) -> nn.Conv2d:
    """1x1 convolution of all channels."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h, w, C), contiguous: a view of a map in channels-last layout."""
    return x.permute(0, 2, 3, 1).contiguous()


def to_map(x: Tensor) -> Tensor:
    """(N, h, w, C) -> (N, C, h, w), a view."""
    return x.permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Stem: (N, in_chans, H, W) -> (N, C, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, in_chans: int, channels: int):
        super().__init__()
        self.proj1 = nn.Conv2d(in_chans, channels // 2, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(channels // 2)
        self.proj2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        # Sizes that are no multiples of 4 count as such, filled with zeros.
        below, right = (round_up(size, 4) - size for size in x.shape[2:])
        x = F.pad(x, (0, right, 0, below))
        x = conv_norm_act(self.proj1, self.norm1, x)
        return conv_norm_act(self.proj2, self.norm, x)

    def fuse(self) -> None:
        self.proj1, self.norm1 = fold_norm(self.proj1, self.norm1)
        self.proj2, self.norm = fold_norm(self.proj2, self.norm)


class ConvNorms(nn.Sequential):
    """Convolutions, each with its batch norm and no activation."""

    def __init__(self, *convs: nn.Conv2d):
        super().__init__(*(m for conv in convs for m in self.group(conv)))

    @staticmethod
    def group(conv: nn.Conv2d) -> list[nn.Module]:
        return [conv, nn.BatchNorm2d(conv.out_channels)]

    def pairs(self) -> list[int]:
        """Where the convolutions are; their norms come next."""
        return [i for i, module in enumerate(self) if isinstance(module, nn.Conv2d)]

    def forward(self, x: Tensor) -> Tensor:
        for i in self.pairs():
            x = conv_norm(self[i], self[i + 1], x)
        return x

    def fuse(self) -> None:
        for i in self.pairs():
            self[i], self[i + 1] = fold_norm(self[i], self[i + 1])


class ConvNormSiLUs(ConvNorms):
    """Convolutions, each with its batch norm and SiLU."""

    @staticmethod
    def group(conv: nn.Conv2d) -> list[nn.Module]:
        return [*ConvNorms.group(conv), nn.SiLU()]

    def forward(self, x: Tensor) -> Tensor:
        for i in self.pairs():
            x = conv_norm_act(self[i], self[i + 1], x)
        return x


class ConvPath(nn.Module):
    """Light convolutions: (N, C, H, W) -> a map of the same size and one of the transformer's."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv1x1_1 = ConvNormSiLUs(
            dense(channels, channels), depthwise(channels), depthwise(channels)
        )
        self.conv1 = ConvNormSiLUs(depthwise(channels, stride))
        self.conv1x1_2 = ConvNormSiLUs(dense(channels, channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.conv1x1_1(x)
        return skip, self.conv1x1_2(self.conv1(skip))


def space_to_depth(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 4C, h, w): the four maps of every second row and column, stacked.

    Blocks of C channels by (row, column) offset: (0, 0), (1, 0), (0, 1), (1, 1). An odd size is
    filled up with zeros.
    """
    batch, channels, height, width = x.shape
    if traceable() or height % 2 or width % 2:
        x = F.pad(x, (0, round_up(width, 2) - width, 0, round_up(height, 2) - height))
    x = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (N, h, 2, w, 2, C)
    return to_map(x.permute(0, 1, 3, 4, 2, 5).flatten(3))


class Gate(nn.Module):
    """Blends the convolution path into the tokens, by a gate of space (it) and channels (they).

    (N, h, w, C) twice -> (N, h, w, C).
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 16
        self.fc_spatial = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 1, bias=False))
        self.fc_channel = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.SiLU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, channels, bias=False),
        )

    def forward(self, x: Tensor, partner: Tensor, standardised: Tensor) -> Tensor:
        """Args as in :meth:`Transformer.forward`."""
        norm, linear = self.fc_spatial
        # What the norm does after standardising goes to the linear layer.
        weight, bias = linear.weight * norm.weight, linear.weight @ norm.bias
        spatial = F.linear(standardised, weight, bias)  # (N, h, w, 1)
        channel = self.fc_channel(x.mean((1, 2), keepdim=True))  # (N, 1, 1, C)
        gate = torch.sigmoid(spatial + channel).to(x.dtype)
        return torch.lerp(x, partner.to(x.dtype), gate)


class Mlp(nn.Module):
    """Linear, exact GELU, linear: (..., C) -> (..., C)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Window attention, gate, MLP: (N, h, w, C) -> (N, h, w, C)."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float, shift: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, WINDOW, shift)
        self.select = Gate(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(mlp_ratio * channels))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, partner: Tensor, standardised: Tensor) -> Tensor:
        """Args as in :meth:`Transformer.forward`."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = self.select(x, partner, standardised)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Downsample(nn.Module):
    """(N, h, w, C) -> (N, h, w, 2C): the resolution was halved before the transformer."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduction = nn.Linear(channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(x))


class Transformer(nn.Module):
    """The blocks of a stage, windows of every second one shifted, and the way to the next."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float, rates: list[float], last: bool):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, heads, mlp_ratio, b % 2 * (WINDOW // 2), rate)
            for b, rate in enumerate(rates)
        )
        self.downsample = None if last else Downsample(channels)

    def forward(self, x: Tensor, partner: Tensor, with_cp: bool) -> Tensor:
        """Run the blocks.

        Args:
            x: tokens (N, h, w, C).
            partner: what every block's gate blends in, (N, h, w, C).
            with_cp: recompute activations in the backward pass.
        """
        # Normalised over channels, once for all gates.
        standardised = F.layer_norm(partner, partner.shape[-1:])
        for block in self.blocks:
            if with_cp:
                x = checkpointed(block, x, partner, standardised)
            else:
                x = block(x, partner, standardised)
        return x


class Variant(NamedTuple):
    """What sets a published model apart: stage i is ``embed_dim * 2**i`` wide."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: float


VARIANTS = {
    "t": Variant(48, (1, 1, 2, 1), (3, 6, 12, 24), 4),
    "s": Variant(96, (1, 1, 2, 1), (3, 6, 12, 24), 2),
    "b": Variant(128, (2, 2, 6, 2), (4, 8, 16, 32), 2),
}

# The reference's further keywords: those with the one value that every published row has, ...
PUBLISHED = {
    **{"patch_size": 4, "window_size": WINDOW, "qkv_bias": True, "qk_scale": None},
    **{"drop_rate": 0, "attn_drop_rate": 0, "ape": False, "patch_norm": True},
}
# ... one that then has no effect, and those that name the variant.
WITHOUT_EFFECT = {"pretrain_img_size"}
NAMED = {name: variant._asdict() for name, variant in VARIANTS.items()}


@register()
class DFvT(Backbone):
    """DFvT tiny, small and base (ECCV 2022), for detection.

    Any H, W >= 1 works: the stem fills up to multiples of 4, then every halving maps a side s to
    ceil(s / 2). Gates average over the whole map, so the padding of a batch has an influence on an
    image's features.

    Args:
        arch: variant, one of ``VARIANTS``, or the fields of a :class:`Variant` of your own. By
            default what ``embed_dim``, ``depths``, ``num_heads`` and ``mlp_ratio`` say, else 't'.
        out_indices: stages whose outputs are returned, strictly increasing. The norms of other
            stages' outputs do not exist, their 1x1 convolutions do without gradients.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages, whole.
        frozen_backbone: freeze everything but the norms and convolutions that make the outputs.
        norm_eval: keep every batch norm in eval mode during training.
        drop_path_rate: stochastic depth rate of the last block, growing linearly from 0.
        with_cp: recompute the activations of convolution paths and blocks in the backward pass
            instead of storing them.
        use_checkpoint: the older name of ``with_cp``.
        pretrained: checkpoint to initialise from, the older way to say
            ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: what ``init_weights()`` starts from: ``dict(type="Pretrained", checkpoint=FILE)``.
        in_chans: channels of the images.
        features_only: timm's word; a backbone always is what True means.
        published: the reference's further keywords, for its configs (``PUBLISHED``).

    Raises:
        TypeError: unknown keyword, or ``arch`` given together with the keywords that name one.
        ValueError: unknown ``arch``; a keyword's value is not the published one; ``out_indices`` or
            ``frozen_stages`` out of range; ``pretrained`` beside ``init_cfg``.
    """

    def __init__(
        self,
        arch: str | dict | None = None,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        frozen_backbone: bool = False,
        norm_eval: bool = False,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        use_checkpoint: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
        in_chans: int = 3,
        features_only: bool = True,
        **published,
    ):
        naming = {key: published.pop(key) for key in Variant._fields if key in published}
        check_published("DFvT", published, PUBLISHED, WITHOUT_EFFECT)
        variant = variant_of("DFvT", arch, naming, VARIANTS, NAMED)
        init_cfg = pretrained_init(pretrained, init_cfg)
        width, depths, heads, mlp_ratio = variant
        channels = [width * 2**i for i in range(4)]
        super().__init__(
            channels, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, init_cfg, features_only
        )
        self.frozen_backbone = frozen_backbone
        self.with_cp = with_cp or use_checkpoint
        self.patch_embed = PatchEmbed(in_chans, width)
        self.layers = nn.ModuleList(
            Transformer(channels[i], heads[i], mlp_ratio, rates, last=i == 3)
            for i, rates in enumerate(drop_path_rates(drop_path_rate, depths))
        )
        self.convlayers = nn.ModuleList(ConvPath(channels[i], 1 if i == 3 else 2) for i in range(4))
        self.multiresolution_conv = nn.ModuleList(
            ConvNorms(depthwise(4 * c), dense(4 * c, c)) for c in channels[:3]
        )
        self.conv1x1layers = nn.ModuleList(dense(2 * c, c) for c in channels[:3])
        for i in self.out_indices:
            self.add_module(f"norm{i}", nn.LayerNorm(channels[i]))
        for i in {0, 1, 2} - set(self.out_indices):
            self.conv1x1layers[i].requires_grad_(False)  # never called: DDP would wait for it
        self.apply(initialise)
        self.freeze()

    def stage_modules(self) -> list[list[nn.Module]]:
        def stage(i):
            lists = (self.layers, self.convlayers, self.multiresolution_conv, self.conv1x1layers)
            modules = [modules[i] for modules in lists if i < len(modules)]
            return modules + ([getattr(self, f"norm{i}")] if i in self.out_indices else [])

        return [[self.patch_embed], *(stage(i) for i in range(4))]

    def _frozen_modules(self) -> list[nn.Module]:
        modules = super()._frozen_modules()
        if self.frozen_backbone:
            modules += [self.patch_embed, self.layers, self.convlayers, self.multiresolution_conv]
        return modules

    def _unused_modules(self) -> list[nn.Module]:
        last = self.out_indices[-1]
        after = [self.layers[last].downsample] if last < 3 else []
        return [*super()._unused_modules(), *after]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C_i, ceil(H / s_i), ceil(W / s_i)) per out index.

        s_i is the stage's stride: 4, 8, 16, 32. Stages after the last out index do not run.
        """
        x = fastest_layout(x)
        with_cp = self.with_cp and self.training
        x = self.patch_embed(x)
        outs = []
        for i in range(self.out_indices[-1] + 1):
            path = self.convlayers[i]
            skip, light = checkpointed(path, x) if with_cp else path(x)
            if i < 3:
                tokens = F.max_pool2d(x, 3, stride=2, padding=1) + light
                partner = self.multiresolution_conv[i](space_to_depth(skip))
            else:
                tokens, partner = x + light, x
            tokens = self.layers[i](to_tokens(tokens), to_tokens(partner), with_cp)
            if i in self.out_indices:
                out = to_map(getattr(self, f"norm{i}")(tokens))
                outs.append(self.fusion(i, out, skip) if i < 3 else out)
            if i < self.out_indices[-1]:
                x = to_map(self.layers[i].downsample(tokens))
        return tuple(outs)

    def fusion(self, i: int, x: Tensor, skip: Tensor) -> Tensor:
        """1x1 convolution of x, enlarged twice, and skip, stacked.

        (N, C, h, w) and (N, C, H, W) -> (N, C, H, W).
        The convolution of stacked maps is the sum of two, and the first of them may come before the
        enlarging: a quarter of the work.
        """
        of_x, of_skip = self.conv1x1layers[i].weight.chunk(2, dim=1)
        enlarged = F.interpolate(pointwise(x, of_x), scale_factor=2, mode="nearest")
        # A slice is for odd sizes only: its gradient is a copy.
        if traceable() or enlarged.shape != skip.shape:
            enlarged = enlarged[:, :, : skip.shape[2], : skip.shape[3]]
        return pointwise(skip, of_skip).add_(enlarged)


def initialise(module: nn.Module) -> None:
    """Initial weights of a linear layer or convolution; norms and bias tables bring theirs."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


OUTPUT_KEYS = re.compile(r"conv1x1layers\.[0-2]\.weight|norm[0-3]\.(weight|bias)")
INDEX_KEYS = re.compile(r"layers\.[0-3]\.blocks\.\d+\.attn\.relative_position_index")
ENCODER = "encoder."


def adapt(entries: dict, backbone: nn.Module) -> dict:
    """Drop a prefix ``encoder.``, fit bias tables to the window, and check what is recomputed.

    Raises:
        CheckpointError: some but not all layers that make detection's outputs are there, or a
            position index is not this window's.
    """
    if any(key.startswith(ENCODER) for key in entries):
        entries = {k[len(ENCODER) :]: v for k, v in entries.items() if k.startswith(ENCODER)}
    own = backbone.state_dict()
    outputs = {key for key in own if OUTPUT_KEYS.fullmatch(key)}
    absent = sorted(outputs - entries.keys())
    if absent and len(absent) < len(outputs):
        raise CheckpointError(f"neither classification nor detection: missing {', '.join(absent)}")
    adapted = dict(entries)
    for key in own:
        if key not in entries or not INDEX_KEYS.fullmatch(key):
            continue
        table = key.replace("index", "bias_table")
        if table in entries and entries[table].shape != own[table].shape:
            adapted[key] = own[key]  # the file's is of its own window, as its table is
        elif not torch.equal(entries[key].to(own[key]), own[key]):
            raise CheckpointError(f"{key} is not that of this model's window")
    for key, value in entries.items():
        if key.endswith("relative_position_bias_table") and key in own:
            adapted[key] = resized_table(value, own[key])
    return adapted


def resized_table(table: Tensor, own: Tensor) -> Tensor:
    """A bias table (positions, heads) of another window, bicubically for this model's.

    One of other heads, or of no square window, comes back as it is and will be refused.
    """
    sides = [math.isqrt(len(t)) for t in (table, own)]
    if table.shape == own.shape or table.shape[1:] != own.shape[1:] or sides[0] ** 2 != len(table):
        return table
    image = table.float().mT.unflatten(1, (sides[0], sides[0]))[None]  # (1, heads, side, side)
    image = F.interpolate(image, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return image[0].flatten(1).mT  # (positions, heads)


# Classification files hold {"model": state_dict} with a norm and a classifier, and for the base
# model with the shift masks of its two stages of more than one window; they lack what makes
# detection's outputs. Detection files are in mmdet's own format. "*_coco_pretrained.pth" may be of
# either kind.
DFvT.published = PublishedFiles(
    name="dfvt",
    # norm0 to norm3: of outputs that the model is not asked for
    dropped=(r"(norm[0-3]?|head)\.(weight|bias)", r"layers\.[01]\.blocks\.1\.attn_mask"),
    missing=(OUTPUT_KEYS.pattern, INDEX_KEYS.pattern),
    files=r"DFvT_(T_7295|S_7829|B_8198|(tiny|small|base)_(coco_pretrained|for_coco))\.pth",
    source="https://github.com/ginobilinie/DFvT",
    adapt=adapt,
)


@register(variant=True)
class dfvt_t(DFvT):
    """DFvT-T: 1, 1, 2, 1 transformer blocks, 48 to 384 channels."""

    __init__ = partialmethod(DFvT.__init__, "t")


@register(variant=True)
class dfvt_s(DFvT):
    """DFvT-S: 1, 1, 2, 1 transformer blocks, 96 to 768 channels."""

    __init__ = partialmethod(DFvT.__init__, "s")


@register(variant=True)
class dfvt_b(DFvT):
    """DFvT-B: 2, 2, 6, 2 transformer blocks, 128 to 1024 channels."""

    __init__ = partialmethod(DFvT.__init__, "b")
