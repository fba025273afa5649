"""BiFormer with its attention as the equations stand: the yardstick of the benchmark.

Windows first, projections of windows, a gather from a view that repeats all windows for each
window, heads by permutation, an explicit softmax, no choice of layout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models_mm.backbones import biformer
from models_mm.backbones.biformer import (
    GLOBAL_HEADS,
    GRID,
    GlobalAttention,
    RoutingAttention,
    channels_first,
    channels_last,
)


class DirectRoutingAttention(RoutingAttention):
    """(N, H, W, C) -> same. P windows of M pixels, L = topk * M keys, h heads."""

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, -width % GRID, 0, -height % GRID))
        size = x.shape[1] // GRID, x.shape[2] // GRID
        x = x.view(n, GRID, size[0], GRID, size[1], channels).transpose(2, 3)
        x = x.reshape(n, GRID * GRID, size[0] * size[1], channels)  # (N, P, M, C)
        q, kv = self.qkv(x).split((channels, 2 * channels), -1)
        index = self._route(q, kv[..., :channels])  # (N, P, topk)

        count, pixels = x.shape[1:3]
        every = kv.unsqueeze(1).expand(n, count, count, pixels, 2 * channels)
        where = index[..., None, None].expand(n, count, self.topk, pixels, 2 * channels)
        k, v = every.gather(2, where).flatten(2, 3).chunk(2, -1)  # each (N, P, L, C)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(2, 3).contiguous() for y in (q, k, v)
        )
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)  # (N, P, h, M, L)
        out = (weights @ v).transpose(2, 3).flatten(3)  # (N, P, M, C)

        out, v = self._map(out, size), self._map(kv[..., channels:], size)
        out = self.wo(out + channels_last(self.lepe(channels_first(v).contiguous())))
        return out[:, :height, :width]

    @torch.no_grad()
    def _route(self, q: Tensor, k: Tensor) -> Tensor:
        logits = (q.mean(2) * self.scale) @ k.mean(2).transpose(1, 2)
        return logits.topk(self.topk, dim=-1).indices

    @staticmethod
    def _map(x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, P, M, C) -> (N, H, W, C)."""
        x = x.unflatten(2, size).unflatten(1, (GRID, GRID)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)


class DirectGlobalAttention(GlobalAttention):
    """(N, H, W, C) -> same. T tokens, h heads of width d."""

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, GLOBAL_HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (N, h, T, d)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)  # (N, h, T, T)
        out = (weights @ v).transpose(1, 2).reshape(x.shape)
        return self.proj(out + channels_last(self.lepe(channels_first(x).contiguous())))


class BiFormer(biformer.BiFormer):
    """The backbone in the direct form; arguments, weights and outputs are the same."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        for module in self.modules():
            if isinstance(module, RoutingAttention):
                module.__class__ = DirectRoutingAttention
            elif isinstance(module, GlobalAttention):
                module.__class__ = DirectGlobalAttention

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = []
        for downsample, stage, norm in zip(
            self.downsample_layers, self.stages, self.extra_norms, strict=True
        ):
            x = stage(downsample(x))
            outs.append(channels_first(norm(channels_last(x))).contiguous())
        return tuple(outs)


def build(name: str) -> BiFormer:
    """The direct form of ``biformer_s`` or ``biformer_b``."""
    return BiFormer(name.removeprefix("biformer_"))
