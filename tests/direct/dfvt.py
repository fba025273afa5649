"""DFvT by its equations, step by step, with the weights of the package's model.

What the benchmark and the tests compare with: maps in PyTorch's default layout, windows cut by pad,
roll, view and permute, attention with every intermediate, its mask made in every stage of every
forward, maps stacked before the convolution that fuses them.

Shape legend: N batch, C channels, H, W map, L tokens (= H * W), P windows of the padded map, M
cells of a window, h heads, d head width (C = h * d).
"""

import torch
import torch.nn.functional as F
from mmdet.models import build_backbone
from torch import Tensor, nn

SIDE, SHIFT = 7, 3


def build(name: str) -> nn.Module:
    """The direct formulation of a registered DFvT."""
    return Direct(build_backbone(dict(type=name)))


class Direct(nn.Module):
    """Calls the layers of ``model`` that hold weights, and none of its forwards."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C, H, W) per out index of the model."""
        model, outs = self.model, []
        x = stem(model.patch_embed, x)
        for i in range(4):
            path = model.convlayers[i]
            skip = in_turn(path.conv1x1_1, x)
            light = in_turn(path.conv1x1_2, in_turn(path.conv1, skip))
            if i < 3:
                z = F.max_pool2d(x, kernel_size=3, stride=2, padding=1) + light
                partner = in_turn(model.multiresolution_conv[i], space_to_depth(skip))
            else:
                z, partner = x + light, x
            tokens = transformer(model.layers[i].blocks, z, partner)  # (N, L, C)
            if i in model.out_indices:
                y = as_map(getattr(model, f"norm{i}")(tokens), z)
                if i < 3:
                    y = F.interpolate(y, scale_factor=2, mode="nearest")
                    y = y[:, :, : skip.shape[2], : skip.shape[3]]
                    y = model.conv1x1layers[i](torch.cat([y, skip], dim=1))
                outs.append(y)
            if i < 3:
                down = model.layers[i].downsample
                x = as_map(down.reduction(down.norm(tokens)), z)
        return tuple(outs)


def stem(embed: nn.Module, x: Tensor) -> Tensor:
    x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
    x = F.silu(embed.norm1(embed.proj1(x)))
    return F.silu(embed.norm(embed.proj2(x)))


def in_turn(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def space_to_depth(x: Tensor) -> Tensor:
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    return torch.cat([x[:, :, r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))], dim=1)


def as_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (N, C, H, W) -> (N, L, C)


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(N, L, C) -> (N, C, H, W) of the size of another map."""
    batch, _, channels = tokens.shape
    return tokens.view(batch, *like.shape[2:], channels).permute(0, 3, 1, 2).contiguous()


def transformer(blocks: nn.ModuleList, z: Tensor, partner: Tensor) -> Tensor:
    height, width = z.shape[2:]
    mask = shift_mask(-(-height // SIDE) * SIDE, -(-width // SIDE) * SIDE).to(z)
    x, partner = as_tokens(z), as_tokens(partner)
    for b, block in enumerate(blocks):
        shift = SHIFT if b % 2 else 0
        out = attention(block.attn, block.norm1(x), height, width, shift, mask if shift else None)
        x = x + block.drop_path(out)
        x = gate(block.select, x, partner)
        x = x + block.drop_path(block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x)))))
    return x


def gate(select: nn.Module, x: Tensor, partner: Tensor) -> Tensor:
    spatial = in_turn(select.fc_spatial, partner)  # (N, L, 1)
    channel = in_turn(select.fc_channel, x.mean(dim=1, keepdim=True))  # (N, 1, C)
    m = torch.sigmoid(spatial + channel)
    return partner * m + x * (1 - m)


def shift_mask(height: int, width: int) -> Tensor:
    """(P, M, M): -100 between the regions of a rolled map, which are numbered on a map of it."""
    regions = torch.zeros(1, height, width, 1)
    parts = (slice(0, -SIDE), slice(-SIDE, -SHIFT), slice(-SHIFT, None))
    for i, rows in enumerate(parts):
        for j, columns in enumerate(parts):
            regions[:, rows, columns, :] = 3 * i + j
    regions = cut(regions).squeeze(-1)  # (P, M)
    different = regions.unsqueeze(1) - regions.unsqueeze(2)
    return different.masked_fill(different != 0, -100.0)


def cut(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N * P, M, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // SIDE, SIDE, width // SIDE, SIDE, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, SIDE * SIDE, channels)


def joined(windows: Tensor, height: int, width: int) -> Tensor:
    """(N * P, M, C) -> (N, H, W, C)."""
    x = windows.view(-1, height // SIDE, width // SIDE, SIDE, SIDE, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, windows.shape[-1])


def attention(attn: nn.Module, x: Tensor, height, width, shift: int, mask: Tensor | None) -> Tensor:
    """(N, L, C) -> (N, L, C)."""
    batch, _, channels = x.shape
    x = x.view(batch, height, width, channels)
    x = F.pad(x, (0, 0, 0, -width % SIDE, 0, -height % SIDE))
    padded = x.shape[1:3]
    if shift:
        x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))
    windows = attend(attn, cut(x), mask)
    x = joined(windows, *padded)
    if shift:
        x = torch.roll(x, shifts=(shift, shift), dims=(1, 2))
    x = x[:, :height, :width, :].contiguous()
    return x.view(batch, height * width, channels)


def attend(attn: nn.Module, windows: Tensor, mask: Tensor | None) -> Tensor:
    """(N * P, M, C) -> (N * P, M, C)."""
    count, cells, channels = windows.shape
    heads = attn.heads
    qkv = attn.qkv(windows).reshape(count, cells, 3, heads, channels // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N * P, h, M, d)
    logits = (q * (channels // heads) ** -0.5) @ k.transpose(-2, -1)
    bias = attn.relative_position_bias_table[attn.relative_position_index.view(-1)]
    bias = bias.view(cells, cells, heads).permute(2, 0, 1).contiguous()
    logits = logits + bias.unsqueeze(0)
    if mask is not None:
        logits = logits.view(-1, len(mask), heads, cells, cells) + mask.unsqueeze(1).unsqueeze(0)
        logits = logits.view(-1, heads, cells, cells)
    out = F.softmax(logits, dim=-1) @ v
    return attn.proj(out.transpose(1, 2).reshape(count, cells, channels))
