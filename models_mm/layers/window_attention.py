"""Attention within (shifted) windows of a map, with a learned bias per relative position.

It was introduced by Swin Transformer (arXiv 2103.14030). Two indices are computed once per map
size instead of in every forward pass: that which brings a map into its windows and back in a single
copy, padding and cyclic shift included; and that into the bias table. They are computed on the
device of the map, without waiting for it.

Shape legend: N batch, C channels, H, W map, L tokens (= H * W), P windows of the padded map,
M cells of a window (= side * side), h heads, d head width (C = h * d).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forms import round_up, traceable

MASKED = (
    -100.0
)  # added to the logits between different regions: finite, as the published weights expect
ALIGNMENT = 8  # row stride of a bias that the memory-efficient GPU kernels accept without a copy


class WindowGrid(NamedTuple):
    """The assignment of tokens to windows for one map size.

    Attributes:
        tokens: (P * M,) the token in each window cell, windows row by row; 0 if there is none.
        cells: (L,) the window cell of each token.
        empty: indices of the cells without a token: the padding below and to the right.
        regions: (P, M) labels of the parts of the map that the shift has brought together in a
            window, or None without a shift.
    """

    tokens: Tensor
    cells: Tensor
    empty: Tensor
    regions: Tensor | None


@lru_cache(maxsize=256)
def window_grid(height: int, width: int, side: int, shift: int, device: torch.device) -> WindowGrid:
    """The grid of a map, padded to multiples of ``side`` and rolled by ``-shift`` on both axes."""
    # Cached tensors are also used in training, even if the first call was in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        padded = [-(-size // side) * side for size in (height, width)]
        y, x = ((torch.arange(size, device=device) + shift) % size for size in padded)
        tokens = _windows(y[:, None] * width + x, side).flatten()  # (P * M,)
        taken = _windows((y < height)[:, None] & (x < width), side).flatten()
        # Sorting needs no look at the values, as the positions of the true ones would.
        order = taken.byte().argsort(stable=True)
        empty, cells = order.split([len(order) - height * width, height * width])
        cells = cells[tokens[cells].argsort()]
        regions = _regions(*padded, side, shift, device) if shift else None
        return WindowGrid(torch.where(taken, tokens, 0), cells, empty, regions)


def _windows(x: Tensor, side: int) -> Tensor:
    """(H, W) -> (P, M); windows and their cells are numbered row by row."""
    height, width = x.shape
    x = x.view(height // side, side, width // side, side).transpose(1, 2)
    return x.reshape(-1, side * side)


def _regions(height: int, width: int, side: int, shift: int, device: torch.device) -> Tensor:
    """int8 (P, M): equal for cells of a window that were neighbours before the roll.

    The last window of each axis has two regions: the end of the map, and its start, rolled in.
    """

    def region(size):
        place = torch.arange(size, device=device)
        return (place >= size - side).to(torch.int8) + (place >= size - shift)

    return _windows(3 * region(height)[:, None] + region(width), side)


def _shift_mask(regions: Tensor, dtype: torch.dtype) -> Tensor:
    """(P, M) -> (P, 1, M, aligned M): MASKED between cells of different regions, else 0."""
    mask = (regions[:, :, None] != regions[:, None, :]).to(dtype) * MASKED  # (P, M, M)
    return F.pad(mask, (0, _surplus(regions.shape[1])))[:, None]


def _parts(size: int, side: int, shift: int, device: torch.device) -> Tensor:
    """(size,): 0 for all windows but the last, 1 and 2 for the two parts of the last one."""
    places = torch.arange(size, device=device)
    return (places >= size - side).long() + (places >= size - shift)


def _surplus(cells: int) -> int:
    """The padding of a row of ``cells`` to the next multiple of the alignment."""
    return -cells % ALIGNMENT


class _IntoWindows(torch.autograd.Function):
    """See :func:`into_windows`. Autograd's gradient would add rows, which never coincide."""

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
    """Window cells (N, P * M, C) -> tokens (N, L, C), without the padding."""
    return _OutOfWindows.apply(x, grid)


def relative_position_index(side: int) -> Tensor:
    """(M, M): the row of the bias table for each query and key of a window."""
    y, x = torch.arange(side * side) // side, torch.arange(side * side) % side
    rows = y[:, None] - y + side - 1
    columns = x[:, None] - x + side - 1
    return rows * (2 * side - 1) + columns


class WindowAttention(nn.Module):
    """Multi-head attention within windows: (N, H, W, C) -> (N, H, W, C), any H, W.

    The map is padded with zeros below and to the right. Padded cells are used as keys and values
    (they have the bias of ``qkv``). With a shift, the windows are those of the rolled map, and
    cells that only the roll made neighbours are masked from each other. This also holds for a map
    of a single window.

    Args:
        channels: C.
        heads: h, a divisor of C.
        side: side of a window.
        shift: shift of the windows relative to the map; 0 for none.
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
        if traceable():
            return self.padded_and_rolled(x)
        batch, height, width, channels = x.shape
        cells = self.side**2
        grid = window_grid(height, width, self.side, self.shift, x.device)
        # The output for the padding's zeros is the bias of the layer; nothing is computed for it.
        qkv = into_windows(self.qkv(x.flatten(1, 2)), self.qkv.bias, grid)  # (N, P * M, 3C)
        qkv = qkv.view(-1, cells, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N * P, h, M, d), a view
        bias = self.bias(grid.regions, batch).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (N * P, h, M, d)
        out = out.transpose(1, 2).reshape(batch, -1, channels)  # (N, P * M, C)
        return self.proj(out_of_windows(out, grid)).view(x.shape)

    def padded_and_rolled(self, x: Tensor) -> Tensor:
        """The attention without tables that depend on the size of the map."""
        side, shift, heads = self.side, self.shift, self.heads
        height, width = x.shape[1:3]
        below, right = (round_up(size, side) - size for size in (height, width))
        x = F.pad(x, (0, 0, 0, right, 0, below)).roll((-shift, -shift), (1, 2))
        grid = [size // side for size in x.shape[1:3]]  # windows per column and row
        windows = x.unflatten(2, (grid[1], side)).unflatten(1, (grid[0], side))
        windows = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (N, P, M, C)
        qkv = self.qkv(windows).unflatten(3, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
        q, k, v = qkv.unbind()  # each (N, P, h, M, d)
        bias = self.bias(None, 1)[0]  # (h, M, M)
        if shift:
            rows, columns = (_parts(size, side, shift, x.device) for size in x.shape[1:3])
            regions = 3 * rows[:, None] + columns  # (H, W) of the padded map
            regions = regions.unflatten(1, (grid[1], side)).unflatten(0, (grid[0], side))
            regions = regions.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (P, M)
            apart = regions[:, None, :, None] != regions[:, None, None, :]  # (P, 1, M, M)
            bias = bias + apart.to(bias.dtype) * MASKED  # (P, h, M, M)
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1)
        out = (weights @ v).transpose(2, 3).flatten(3)  # (N, P, M, C)
        out = out.unflatten(2, (side, side)).unflatten(1, grid).transpose(2, 3)
        out = out.flatten(3, 4).flatten(1, 2).roll((shift, shift), (1, 2))
        return self.proj(out[:, :height, :width])

    def bias(self, regions: Tensor | None, batch: int) -> Tensor:
        """The summand of the logits: (1, h, M, M) or, with regions, (N * P, h, M, M)."""
        cells = self.side**2
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(cells, cells, -1).permute(2, 0, 1)  # (h, M, M)
        bias = F.pad(bias, (0, _surplus(cells)))[None]
        if regions is not None:
            bias = bias + _shift_mask(regions, bias.dtype)  # (P, h, M, aligned M)
            if batch > 1:
                bias = bias.repeat(batch, 1, 1, 1)
        return bias[..., :cells]
