"""Attention within (shifted) windows of a map, with a learned bias for every relative position.

As introduced by Swin Transformer (arXiv 2103.14030). Three things are done once per size instead
of in every forward: the order of tokens in windows, padding and cyclic shift included, is one
index, so that a map goes into its windows, and back, in a single copy; the mask of the shifted
windows; the index of the bias table.

Shape legend: N batch, C channels, H, W map, L tokens (= H * W), P windows of the padded map,
M cells of a window (= side * side), h heads, d head width (C = h * d).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -100.0  # what pairs of different regions get: finite, as the published weights expect
ALIGNMENT = 8  # row stride of a bias that the memory-efficient GPU kernels take without a copy


class WindowGrid(NamedTuple):
    """How the tokens of one map size lie in its windows.

    Attributes:
        tokens: (P * M,) the token in each window cell, windows row by row; 0 where there is none.
        cells: (L,) the window cell of each token.
        empty: indices of the cells without a token: the padding below and to the right.
        mask: (P, 1, M, aligned M) what to add to the logits, or None without a shift.
    """

    tokens: Tensor
    cells: Tensor
    empty: Tensor
    mask: Tensor | None


@lru_cache(maxsize=256)
def window_grid(height: int, width: int, side: int, shift: int, device: torch.device) -> WindowGrid:
    """The grid of a map padded to multiples of ``side`` and rolled by ``-shift`` both ways."""
    # Cached tensors serve training too, whatever mode the first call is made in.
    with torch.inference_mode(False), torch.no_grad():
        padded = [-(-size // side) * side for size in (height, width)]
        tokens = torch.full(padded, -1)
        tokens[:height, :width] = torch.arange(height * width).view(height, width)
        tokens = _windows(tokens.roll((-shift, -shift), (0, 1)), side).flatten()  # (P * M,)
        taken = tokens >= 0
        cells = torch.empty(height * width, dtype=torch.long)
        cells[tokens[taken]] = taken.nonzero().flatten()
        empty = (~taken).nonzero().flatten()
        mask = _shift_mask(*padded, side, shift).to(device) if shift else None
        return WindowGrid(tokens.clamp(min=0).to(device), cells.to(device), empty.to(device), mask)


def _windows(x: Tensor, side: int) -> Tensor:
    """(H, W) -> (P, M), windows and their cells row by row."""
    height, width = x.shape
    x = x.view(height // side, side, width // side, side).transpose(1, 2)
    return x.reshape(-1, side * side)


def _shift_mask(height: int, width: int, side: int, shift: int) -> Tensor:
    """(P, 1, M, aligned M): MASKED between cells that the roll brought together, else 0.

    The last window of each axis holds two regions: its own end of the map and the rolled-in start.
    """

    def region(size):
        label = torch.zeros(size, dtype=torch.long)
        label[size - side : size - shift] = 1
        label[size - shift :] = 2
        return label

    regions = _windows(3 * region(height)[:, None] + region(width), side)  # (P, M)
    mask = (regions[:, :, None] != regions[:, None, :]) * MASKED  # (P, M, M)
    return F.pad(mask, (0, _surplus(side * side)))[:, None]


def _surplus(cells: int) -> int:
    """What a row of ``cells`` lacks to the next multiple of the alignment."""
    return -cells % ALIGNMENT


class _IntoWindows(torch.autograd.Function):
    """See :func:`into_windows`. Autograd's own gradient would add up rows that never meet."""

    @staticmethod
    def forward(ctx, x, fill, grid):
        ctx.grid = grid
        windows = x.index_select(1, grid.tokens)
        windows[:, grid.empty] = fill.to(x.dtype)
        return windows

    @staticmethod
    def backward(ctx, grad):
        of_fill = grad.index_select(1, ctx.grid.empty).sum((0, 1))
        return _OutOfWindows.apply(grad, ctx.grid), of_fill, None


class _OutOfWindows(torch.autograd.Function):
    """See :func:`out_of_windows`."""

    @staticmethod
    def forward(ctx, x, grid):
        ctx.grid = grid
        return x.index_select(1, grid.cells)

    @staticmethod
    def backward(ctx, grad):
        return _IntoWindows.apply(grad, grad.new_zeros(grad.shape[-1]), ctx.grid), None


def into_windows(x: Tensor, fill: Tensor, grid: WindowGrid) -> Tensor:
    """Tokens (N, L, C) -> window cells (N, P * M, C); cells without a token are ``fill`` (C,)."""
    return _IntoWindows.apply(x, fill, grid)


def out_of_windows(x: Tensor, grid: WindowGrid) -> Tensor:
    """Window cells (N, P * M, C) -> tokens (N, L, C), the padding left out."""
    return _OutOfWindows.apply(x, grid)


def relative_position_index(side: int) -> Tensor:
    """(M, M): the row of the bias table for each query and key of a window, row by row."""
    y, x = torch.arange(side * side) // side, torch.arange(side * side) % side
    rows = y[:, None] - y + side - 1
    columns = x[:, None] - x + side - 1
    return rows * (2 * side - 1) + columns


class WindowAttention(nn.Module):
    """Multi-head attention within windows: (N, H, W, C) -> (N, H, W, C), any H, W.

    The map is padded with zeros below and to the right; padded cells take part as keys and values
    (they carry the bias of ``qkv``). With a shift, windows are laid over the map rolled by it, and
    cells that only the roll made neighbours are masked from each other; this holds for a map of a
    single window too.

    Args:
        channels: C.
        heads: h, a divisor of C.
        side: side of a window.
        shift: 0, or by how much the windows are shifted against the map.
    """

    def __init__(self, channels: int, heads: int, side: int, shift: int = 0):
        super().__init__()
        self.heads, self.side, self.shift = heads, side, shift
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * side - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(side))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        cells = self.side**2
        grid = window_grid(height, width, self.side, self.shift, x.device)
        # What the layer makes of the padding's zeros is its bias, with no work done for it.
        qkv = into_windows(self.qkv(x.flatten(1, 2)), self.qkv.bias, grid)  # (N, P * M, 3C)
        qkv = qkv.view(-1, cells, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N * P, h, M, d), a view
        bias = self.bias(grid.mask, batch).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (N * P, h, M, d)
        out = out.transpose(1, 2).reshape(batch, -1, channels)  # (N, P * M, C)
        return self.proj(out_of_windows(out, grid)).view(x.shape)

    def bias(self, mask: Tensor | None, batch: int) -> Tensor:
        """What is added to the logits: (1, h, M, M) or, with a mask, (N * P, h, M, M)."""
        cells = self.side**2
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(cells, cells, -1).permute(2, 0, 1)  # (h, M, M)
        bias = F.pad(bias, (0, _surplus(cells)))[None]
        if mask is not None:
            bias = bias + mask.to(bias.dtype)  # (P, h, M, aligned M)
            if batch > 1:
                bias = bias.repeat(batch, 1, 1, 1)
        return bias[..., :cells]
