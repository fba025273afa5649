"""MPViT by its equations, step by step, with the weights of the package's model.

What the benchmark and the tests compare with: maps in PyTorch's default layout, tokens copied from
and to them in every layer, queries, keys and values permuted to heads, keys normalised over the
tokens, one convolution per size of the relative positions, maps stacked before they are mixed.

Shape legend: N batch, C channels, H, W map, L tokens (= H * W), h heads, d head width (C = h * d).
"""

import torch
import torch.nn.functional as F
from mmdet.models import build_backbone
from torch import Tensor, nn

HEADS = 8


def build(name: str) -> nn.Module:
    """The direct formulation of a registered MPViT."""
    return Direct(build_backbone(dict(type=name)))


class Direct(nn.Module):
    """Calls the layers of ``model`` that hold weights, and none of its forwards."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C, H, W) per out index of the model."""
        model, outs = self.model, []
        for layer in model.stem:
            x = F.hardswish(layer.bn(layer.conv(x)))
        for i in range(4):
            maps = []
            for embed in model.patch_embed_stages[i].patch_embeds:
                conv = embed.patch_conv
                x = F.hardswish(conv.bn(conv.pwconv(conv.dwconv(x))))
                maps.append(x)
            stage = model.mhca_stages[i]
            branches = [local(stage.InvRes, maps[0])]
            for blocks, tokens in zip(stage.mhca_blks, maps, strict=True):
                branches.append(encoder(blocks, tokens))
            x = stage.aggregate.conv(torch.cat(branches, dim=1))
            x = F.hardswish(stage.aggregate.bn(x))
            if i in model.out_indices:
                outs.append(x)
        return tuple(outs)


def local(res: nn.Module, x: Tensor) -> Tensor:
    y = F.hardswish(res.conv1.bn(res.conv1.conv(x)))
    y = F.hardswish(res.norm(res.dwconv(y)))
    return x + res.conv2.bn(res.conv2.conv(y))


def as_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()  # (N, C, H, W) -> (N, L, C)


def as_map(tokens: Tensor, size) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size).contiguous()  # (N, L, C) -> (N, C, H, W)


def encoder(blocks: nn.Module, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H, W)."""
    size = x.shape[2:]
    z = as_tokens(x)
    for layer in blocks.MHCA_layers:
        image = as_map(z, size)
        z = as_tokens(image + layer.cpe.proj(image))
        z = z + layer.drop_path(attention(layer.factoratt_crpe, layer.norm1(z), size))
        hidden = F.gelu(layer.mlp.fc1(layer.norm2(z)))
        z = z + layer.drop_path(layer.mlp.fc2(hidden))
    return as_map(z, size)


def attention(attn: nn.Module, u: Tensor, size) -> Tensor:
    """(N, L, C) -> (N, L, C)."""
    batch, count, channels = u.shape
    width = channels // HEADS
    qkv = attn.qkv(u).reshape(batch, count, 3, HEADS, width)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous()  # each (N, h, L, d)
    context = torch.einsum("nhla,nhlb->nhab", k.softmax(dim=2), v)  # (N, h, d, d)
    out = torch.einsum("nhla,nhab->nhlb", q, context)
    out = width**-0.5 * out + position(attn.crpe, q, v, size)
    return attn.proj(out.transpose(1, 2).reshape(batch, count, channels))


def position(crpe: nn.Module, q: Tensor, v: Tensor, size) -> Tensor:
    """(N, h, L, d) twice -> (N, h, L, d)."""
    image = v.transpose(2, 3).reshape(len(v), -1, *size)  # (N, C, H, W)
    parts = image.split([conv.in_channels for conv in crpe.conv_list], dim=1)
    image = torch.cat([conv(x) for conv, x in zip(crpe.conv_list, parts, strict=True)], dim=1)
    heads = image.flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3)  # (N, h, L, d)
    return q * heads
