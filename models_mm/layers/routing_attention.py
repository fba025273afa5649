"""Bi-level routing attention that does not store the gathered keys and values.

The map is cut into ``grid`` x ``grid`` windows. Each window of queries selects the ``topk`` windows
whose mean key matches its mean query best, and its pixels attend to all pixels of these windows
(arXiv 2303.08810, section 3.2).

The attention has two forms. ``routing_kernels.py`` reads the selected windows in place, on NVIDIA
GPUs. The form for all devices is here: a few query windows are processed at a time:
their keys and values are gathered into a buffer that fits into the cache, used, and discarded. The
backward pass gathers them again. For a large ``topk`` on a CPU, this takes half the time of
gathering everything at once, because the gathered copy would not fit into any cache. With either
form, training stores only q, k, v, the output and the indices, for any ``topk``.

Shape legend: N batch, C channels, H, W map, P = grid * grid windows, M pixels of a window,
h heads, d head width (C = h * d), L = topk * M keys of a query; R rows = windows of all images,
r rows of one chunk.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .forms import gather_bytes, routing_kernel, traceable


def routing_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, grid: int, topk: int, scale: float
) -> Tensor:
    """Attention of each pixel to the pixels of the ``topk`` windows to which its window is routed.

    No gradient flows through the routing. It is computed in float32 or float64, and it chooses
    arbitrarily among windows with exactly equal scores.

    Args:
        q: queries (N, H', W', C); a map of complete windows, either all of them or only the upper
            left ones (H' <= H, W' <= W) if the others are not needed.
        k: keys (N, H, W, C), channel c in head c // (C / heads); H and W are multiples of ``grid``.
        v: values, with the shape of the keys.
        heads: number of heads.
        grid: windows per side.
        topk: windows that each window attends to.
        scale: factor on the products of queries and keys, both in the routing and in the attention.

    Returns:
        (N, H', W', C).

    Raises:
        ValueError: the maps do not consist of complete windows, or ``topk`` exceeds their number.
    """
    height, width = k.shape[1:3]
    if traceable():
        return _traceable(q, k, v, heads, grid, topk, scale)
    if height % grid or width % grid or not 0 < topk <= grid * grid:
        raise ValueError(f"no {grid}x{grid} windows, {topk} at a time, in a map {height}x{width}")
    size = height // grid, width // grid
    if q.shape[1] % size[0] or q.shape[2] % size[1]:
        raise ValueError(f"queries {q.shape[1]}x{q.shape[2]} do not end with a window {size}")
    if routing_kernel(q, heads):
        return _attention_in_place(q, k, v, heads, size, topk, scale)
    q_win, k_win, v_win = (to_windows(x, size, heads) for x in (q, k, v))  # (N, P, h, M, d)
    index = select_windows(q_win, k_win, (3,), topk, scale)
    first = torch.arange(len(k), device=k.device) * k_win.shape[1]
    index = index + first.view(-1, 1, 1)  # numbered over all images
    out = _GatheredAttention.apply(
        q_win.flatten(0, 1), k_win.flatten(0, 1), v_win.flatten(0, 1), index.flatten(0, 1), scale
    )
    return from_windows(out, size, q.shape)


def _traceable(
    q: Tensor, k: Tensor, v: Tensor, heads: int, grid: int, topk: int, scale: float
) -> Tensor:
    """The attention of all windows at once, in shapes that hold for all numbers of images."""

    def windows(x: Tensor) -> Tensor:
        x = x.unflatten(3, (heads, -1)).unflatten(2, (grid, -1)).unflatten(1, (grid, -1))
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 2)  # (N, P, h, M, d)

    rows, columns = (side // grid for side in q.shape[1:3])  # of a window
    q, k, v = windows(q), windows(k), windows(v)
    queries, keys = (x.mean(3, dtype=torch.float32).flatten(2) for x in (q, k))  # (N, P, C)
    index = (scale * queries @ keys.mT).topk(topk, sorted=False).indices  # (N, P, topk)
    image = torch.arange(q.shape[0], device=q.device)[:, None, None]
    keys, values = (x[image, index].transpose(2, 3).flatten(3, 4) for x in (k, v))
    weights = (q @ keys.mT * scale).softmax(-1)  # (N, P, h, M, L)
    out = (weights @ values).unflatten(3, (rows, columns)).unflatten(1, (grid, grid))
    # (N, rows, columns, h, of a row, of a column, d) -> (N, H, W, C)
    return out.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def _attention_in_place(q, k, v, heads, size, topk, scale) -> Tensor:
    """Routing attention by the kernels, for windows of ``size`` pixels."""
    from .routing_kernels import routed_attention  # needs triton, which CPUs do not have

    views = (window_view(x, size, heads) for x in (q, k))
    index = select_windows(*views, (4, 5), topk, scale)
    out, _ = routed_attention(q, k, v, index.int(), heads, *size, scale)
    return out


def window_view(x: Tensor, size: tuple[int, int], heads: int) -> Tensor:
    """(N, H, W, C) -> (N, rows, columns, h, height, width, d) of windows, without a copy."""
    x = x.unflatten(3, (heads, -1)).unflatten(2, (-1, size[1])).unflatten(1, (-1, size[0]))
    return x.permute(0, 1, 3, 5, 2, 4, 6)


def to_windows(x: Tensor, size: tuple[int, int], heads: int) -> Tensor:
    """(N, H, W, C) -> (N, P, h, M, d), windows and pixels row by row."""
    return window_view(x, size, heads).reshape(
        len(x), -1, heads, size[0] * size[1], x.shape[3] // heads
    )


def from_windows(x: Tensor, size: tuple[int, int], shape: torch.Size) -> Tensor:
    """(N * P, h, M, d) -> (N, H, W, C), the inverse of :func:`to_windows`."""
    n, height, width, channels = shape
    x = x.view(n, height // size[0], width // size[1], x.shape[1], *size, x.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(n, height, width, channels)


@torch.no_grad()
def select_windows(
    q: Tensor, k: Tensor, pixels: tuple[int, ...], topk: int, scale: float
) -> Tensor:
    """Routing: the ``topk`` key windows of each query window.

    Args:
        q: queries (N, P', h, M, d), or in place (N, rows', columns', h, height, width, d).
        k: keys (N, P, h, M, d), or in place.
        pixels: the dimensions of the pixels of a window.
        topk: windows to choose.
        scale: factor on the products.

    Returns:
        int64 (N, P', topk), the windows numbered within their image.
    """
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        # (N, P, C)
        q, k = (x.mean(pixels, dtype=dtype).flatten(-2).flatten(1, -2) for x in (q, k))
        logits = (scale * q) @ k.transpose(1, 2)  # (N, P', P)
        return logits.topk(topk, sorted=False).indices


class _GatheredAttention(torch.autograd.Function):
    """Attention of row r of q to the rows ``index[r]`` of k and v, gathered in chunks.

    q (R', h, M, d), k and v (R, h, M, d), index (R', topk) -> (R', h, M, d). The backward pass
    sums the gradients of a key from all queries. On a GPU, the order of this sum is repeatable only
    with ``torch.use_deterministic_algorithms``.
    """

    @staticmethod
    def forward(ctx, q, k, v, index, scale):
        q, k, v = (x.contiguous() for x in (q, k, v))
        out = torch.empty_like(q)
        # in the dtype of q, like the backward pass
        with torch.autocast(q.device.type, enabled=False):
            for rows, _, keys, values in _chunks(k, v, index):
                out[rows] = F.scaled_dot_product_attention(q[rows], keys, values, scale=scale)
        ctx.save_for_backward(q, k, v, index, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, index, out = ctx.saved_tensors
        gradients = _gradients if q.element_size() > 2 else _gradients_in_half
        grad_q = torch.empty_like(q)
        # Gradients of popular windows are sums of hundreds of terms, too many for half precision.
        dtype = torch.promote_types(k.dtype, torch.float32)
        # one row per head of each window, as in the gather: (R h, M d)
        grad_k = torch.zeros_like(k, dtype=dtype).flatten(0, 1).flatten(1)
        grad_v = torch.zeros_like(grad_k)
        with torch.autocast(q.device.type, enabled=False):
            for rows, index_of_head, keys, values in _chunks(k, v, index):
                grad_q[rows], *terms = gradients(
                    q[rows], keys, values, out[rows], grad_out[rows], ctx.scale
                )
                for total, term in zip((grad_k, grad_v), terms, strict=True):
                    total.index_add_(0, index_of_head, term.reshape(-1, total.shape[1]).to(dtype))
        grad_k, grad_v = (x.view(k.shape).to(k.dtype) for x in (grad_k, grad_v))
        return grad_q, grad_k, grad_v, None, None


def _gradients(q, k, v, out, grad_out, scale) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q (r, h, M, d), k and v (r, h, L, d) of one chunk, written out.

    On a CPU this is a third faster than differentiating a second forward pass.
    """
    shapes = q.shape, k.shape, v.shape
    q, k, v, out, grad_out = (x.flatten(0, 1) for x in (q, k, v, out, grad_out))
    weights = torch.bmm(q, k.transpose(1, 2)).mul_(scale).softmax(-1)  # (r h, M, L)
    grad_v = torch.bmm(weights.transpose(1, 2), grad_out)
    mean = (grad_out * out).sum(-1, keepdim=True)
    grad = torch.bmm(grad_out, v.transpose(1, 2)).sub_(mean).mul_(weights).mul_(scale)
    grads = torch.bmm(grad, k), torch.bmm(grad.transpose(1, 2), q), grad_v
    return tuple(grad.view(shape) for grad, shape in zip(grads, shapes, strict=True))


def _gradients_in_half(q, k, v, out, grad_out, scale) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the fused kernel, which does not round the products of q and k to 16 bits."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        out = F.scaled_dot_product_attention(*inputs, scale=scale)
    return torch.autograd.grad(out, inputs, grad_out)


def _chunks(k: Tensor, v: Tensor, index: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """For each chunk: its rows, the indices of windows per head (r * h * topk), keys and values
    (r, h, L, d).

    One head of a window is one contiguous row of k, so gathering needs no permutation.
    """
    heads, pixels, width = k.shape[1:]
    topk = index.shape[1]
    step = max(1, gather_bytes(k.device) // (2 * topk * k[0].numel() * k.element_size()))
    head = torch.arange(heads, device=k.device).view(-1, 1)
    k, v = (x.flatten(0, 1).flatten(1) for x in (k, v))  # (R h, M d)
    for start in range(0, len(index), step):
        rows = slice(start, min(start + step, len(index)))
        index_of_head = (index[rows].unsqueeze(1) * heads + head).flatten()  # (r h topk)
        shape = (-1, heads, topk * pixels, width)
        keys, values = (x.index_select(0, index_of_head).view(shape) for x in (k, v))
        yield rows, index_of_head, keys, values
