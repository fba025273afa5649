"""Attention to the selected windows as Triton kernels, for NVIDIA GPUs.

Nothing is gathered: each program reads the pixels of the selected windows where they lie in the
maps of keys and values. It walks over them in tiles with a running softmax, as flash attention
does, so that it stores one number per query and head beside the output (arXiv 2205.14135). The keys
of all selected windows form one list, so that only its last tile is padded, whatever the number of
pixels in a window.

The gradients of a key come from all windows of queries that have selected its window. A list of
them for each window of keys is made by a sort. One program then adds up all gradients of a tile of
keys in a fixed order. There are no atomic additions, so the same call gives the same bits.

This module needs triton, which PyTorch for CUDA brings along; `forms.py` decides when it is used.

Shape legend: N batch, C channels, H, W map of keys, H', W' map of queries, h heads, d head width
(C = h * d), P windows of keys, P' windows of queries, M pixels of a window, L = topk * M.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .forms import allows_tf32

# Pixels that a program processes at a time. Products of float32 need more registers.
TILES = (64, 32, 16)
TILES_OF_FLOAT32 = (32, 16)
# Exponentials are computed to base 2, which the hardware does faster.
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _places(window, pixel, columns, height, width, stride_y, stride_x):
    """Where pixels lie in the map of their image.

    Args:
        window: of each pixel, numbered within the image, row by row.
        pixel: number within the window, row by row.
        columns: windows in a row of the map.
        height, width: of a window.
        stride_y, stride_x: of the map.
    """
    y = window // columns * height + pixel // width
    x = window % columns * width + pixel % width
    return y.to(tl.int64) * stride_y + x * stride_x


@triton.jit
def _read(start, places, there, WIDTH: tl.constexpr):
    """The rows (pixels, d) of a head; zeros where ``there`` is false."""
    channel = tl.arange(0, WIDTH)
    return tl.load(start + places[:, None] + channel[None, :], mask=there[:, None], other=0.0)


@triton.jit
def _write(start, places, there, values, WIDTH: tl.constexpr):
    channel = tl.arange(0, WIDTH)
    at = start + places[:, None] + channel[None, :]
    tl.store(at, values.to(start.dtype.element_ty), mask=there[:, None])


@triton.jit
def _selected(
    queries, k, v, index, start, length,
    k_y, k_x, v_y, v_x, key_columns, height, width,
    SCALE: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the keys and values that a window has selected, and its logits to base 2.

    ``index`` are the selected windows, whose ``length`` keys form one list; the tile begins at
    ``start``. Keys beyond the end have logits of minus infinity.
    """
    pixels = height * width
    place = start + tl.arange(0, KEYS)
    real = place < length
    chosen = tl.load(index + place // pixels, mask=real, other=0)
    k_places = _places(chosen, place % pixels, key_columns, height, width, k_y, k_x)
    keys = _read(k, k_places, real, WIDTH)
    v_places = _places(chosen, place % pixels, key_columns, height, width, v_y, v_x)
    values = _read(v, v_places, real, WIDTH)
    logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION, out_dtype=SUM)
    return keys, values, tl.where(real[None, :], logits * (SCALE * LOG2_E), float("-inf"))


@triton.jit
def _forward(
    q, k, v, index, out, lse,
    q_n, q_y, q_x, k_n, k_y, k_x, v_n, v_y, v_x, out_n, out_y, out_x,
    heads, query_windows, query_columns, key_columns, height, width, topk,
    SCALE: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The output of a tile of queries of one window and head, and the logarithm of their sums."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads  # row: N * P'
    image, window = (row // query_windows).to(tl.int64), row % query_windows
    channel, pixels = head * WIDTH, height * width
    index += row.to(tl.int64) * topk
    k += image * k_n + channel
    v += image * v_n + channel

    pixel = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    there = pixel < pixels
    places = _places(window, pixel, query_columns, height, width, q_y, q_x)
    queries = _read(q + image * q_n + channel, places, there, WIDTH)

    largest = tl.full([QUERIES], float("-inf"), SUM)
    total = tl.zeros([QUERIES], SUM)
    summed = tl.zeros([QUERIES, WIDTH], SUM)
    for start in range(0, topk * pixels, KEYS):
        keys, values, logits = _selected(
            queries, k, v, index, start, topk * pixels,
            k_y, k_x, v_y, v_x, key_columns, height, width, SCALE, WIDTH, KEYS, SUM, PRECISION,
        )  # fmt: skip
        before, largest = largest, tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - largest[:, None])
        shrink = tl.exp2(before - largest)
        total = total * shrink + tl.sum(weights, 1)
        product = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION, out_dtype=SUM)
        summed = summed * shrink[:, None] + product

    places = _places(window, pixel, query_columns, height, width, out_y, out_x)
    _write(out + image * out_n + channel, places, there, summed / total[:, None], WIDTH)
    at = tl.program_id(0).to(tl.int64) * pixels + pixel
    tl.store(lse + at, largest + tl.log2(total), mask=there)


@triton.jit
def _backward_queries(
    q, k, v, index, out, grad_out, lse, grad_q, mean,
    q_n, q_y, q_x, k_n, k_y, k_x, v_n, v_y, v_x, out_n, out_y, out_x,
    heads, query_windows, query_columns, key_columns, height, width, topk,
    SCALE: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of queries, and the products of outputs and their gradients.

    ``out``, ``grad_out`` and ``grad_q`` have the same strides.
    """
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    image, window = (row // query_windows).to(tl.int64), row % query_windows
    channel, pixels = head * WIDTH, height * width
    index += row.to(tl.int64) * topk
    k += image * k_n + channel
    v += image * v_n + channel

    pixel = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    there = pixel < pixels
    places = _places(window, pixel, query_columns, height, width, q_y, q_x)
    queries = _read(q + image * q_n + channel, places, there, WIDTH)
    out_places = _places(window, pixel, query_columns, height, width, out_y, out_x)
    outputs = _read(out + image * out_n + channel, out_places, there, WIDTH)
    grads = _read(grad_out + image * out_n + channel, out_places, there, WIDTH)
    at = tl.program_id(0).to(tl.int64) * pixels + pixel
    sums = tl.load(lse + at, mask=there, other=0.0)
    means = tl.sum(outputs.to(SUM) * grads.to(SUM), 1)
    tl.store(mean + at, means, mask=there)

    summed = tl.zeros([QUERIES, WIDTH], SUM)
    for start in range(0, topk * pixels, KEYS):
        keys, values, logits = _selected(
            queries, k, v, index, start, topk * pixels,
            k_y, k_x, v_y, v_x, key_columns, height, width, SCALE, WIDTH, KEYS, SUM, PRECISION,
        )  # fmt: skip
        weights = tl.exp2(logits - sums[:, None])
        of_weights = tl.dot(grads, tl.trans(values), input_precision=PRECISION, out_dtype=SUM)
        of_logits = (weights * (of_weights - means[:, None])).to(keys.dtype)
        summed += tl.dot(of_logits, keys, input_precision=PRECISION, out_dtype=SUM)
    _write(grad_q + image * out_n + channel, out_places, there, summed * SCALE, WIDTH)


@triton.jit
def _backward_keys(
    q, k, v, rows, firsts, grad_out, lse, mean, grad_k, grad_v,
    q_n, q_y, q_x, k_n, k_y, k_x, v_n, v_y, v_x, out_n, out_y, out_x, grad_n, grad_y, grad_x,
    heads, key_windows, query_windows, query_columns, key_columns, height, width,
    SCALE: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of keys and values of one window and head.

    ``rows`` are the windows of queries (N * P') that have selected the windows of keys, one window
    of keys after the other; those of window w start at ``firsts[w]``. ``grad_k`` and ``grad_v``
    have the same strides.
    """
    key_row, head = tl.program_id(0) // heads, tl.program_id(0) % heads  # key_row: N * P
    image, key_window = (key_row // key_windows).to(tl.int64), key_row % key_windows
    channel, pixels = head * WIDTH, height * width
    q += image * q_n + channel
    grad_out += image * out_n + channel

    pixel = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    there = pixel < pixels
    places = _places(key_window, pixel, key_columns, height, width, k_y, k_x)
    keys = _read(k + image * k_n + channel, places, there, WIDTH)
    places = _places(key_window, pixel, key_columns, height, width, v_y, v_x)
    values = _read(v + image * v_n + channel, places, there, WIDTH)

    first, last = tl.load(firsts + key_row), tl.load(firsts + key_row + 1)
    rows += first
    of_keys = tl.zeros([KEYS, WIDTH], SUM)
    of_values = tl.zeros([KEYS, WIDTH], SUM)
    for start in range(0, (last - first) * pixels, QUERIES):
        place = start + tl.arange(0, QUERIES)
        real = place < (last - first) * pixels
        row = tl.load(rows + place // pixels, mask=real, other=0)
        query_pixel = place % pixels
        window = row % query_windows
        q_places = _places(window, query_pixel, query_columns, height, width, q_y, q_x)
        queries = _read(q, q_places, real, WIDTH)
        out_places = _places(window, query_pixel, query_columns, height, width, out_y, out_x)
        grads = _read(grad_out, out_places, real, WIDTH)
        at = (row * heads + head).to(tl.int64) * pixels + query_pixel
        # the weights of queries that are not there are zero
        sums = tl.load(lse + at, mask=real, other=float("inf"))
        means = tl.load(mean + at, mask=real, other=0.0)
        logits = tl.dot(keys, tl.trans(queries), input_precision=PRECISION, out_dtype=SUM)
        weights = tl.exp2(logits * (SCALE * LOG2_E) - sums[None, :])  # (keys, queries)
        of_values += tl.dot(
            weights.to(grads.dtype), grads, input_precision=PRECISION, out_dtype=SUM
        )
        of_weights = tl.dot(values, tl.trans(grads), input_precision=PRECISION, out_dtype=SUM)
        of_logits = (weights * (of_weights - means[None, :])).to(queries.dtype)
        of_keys += tl.dot(of_logits, queries, input_precision=PRECISION, out_dtype=SUM)

    places = _places(key_window, pixel, key_columns, height, width, grad_y, grad_x)
    _write(grad_k + image * grad_n + channel, places, there, of_keys * SCALE, WIDTH)
    _write(grad_v + image * grad_n + channel, places, there, of_values, WIDTH)


def tile(pixels: int, dtype: torch.dtype) -> int:
    """How many pixels of a window a program processes: the most that pad it by at most a quarter.

    If none does, that which pads it least.
    """
    sizes = TILES if dtype.itemsize < 4 else TILES_OF_FLOAT32
    padded = {size: -(-pixels // size) * size for size in sizes}
    fitting = [size for size in sizes if padded[size] <= 1.25 * pixels]
    return fitting[0] if fitting else min(sizes, key=padded.get)


def walked(length: int, dtype: torch.dtype) -> int:
    """How many pixels of a list of this length are processed at a time."""
    sizes = TILES if dtype.itemsize < 4 else TILES_OF_FLOAT32
    return min(sizes[0], max(sizes[-1], triton.next_power_of_2(length)))


def settings(dtype: torch.dtype, width: int, scale: float, queries: int, keys: int) -> dict:
    """The compile-time arguments of a kernel, and how it is compiled.

    In three stages, products of float32 would need more registers than there are on some GPUs.

    Args:
        dtype: of queries, keys and values.
        width: of a head.
        scale: of the logits.
        queries: pixels of a tile of queries.
        keys: pixels of a tile of keys.
    """
    return dict(
        SCALE=scale,
        WIDTH=width,
        QUERIES=queries,
        KEYS=keys,
        SUM=tl.float64 if dtype == torch.float64 else tl.float32,
        PRECISION="tf32" if allows_tf32() else "ieee",
        num_warps=4,
        num_stages=3 if dtype.itemsize < 4 else 2,
    )


class Geometry:
    """The windows of a call, and the arguments of the kernels that they determine.

    Args:
        q: queries (N, H', W', C).
        k: keys (N, H, W, C).
        index: (N, P', topk).
        heads: h.
        size: height and width of a window.
    """

    def __init__(self, q: Tensor, k: Tensor, index: Tensor, heads: int, size: tuple[int, int]):
        (self.height, self.width), self.heads = size, heads
        self.pixels = self.height * self.width
        self.query_columns, self.key_columns = q.shape[2] // self.width, k.shape[2] // self.width
        self.query_windows = q.shape[1] // self.height * self.query_columns
        self.key_windows = k.shape[1] // self.height * self.key_columns
        self.query_rows, self.key_rows = (
            len(q) * windows for windows in (self.query_windows, self.key_windows)
        )
        self.topk = index.shape[2]

    def of_queries(self) -> tuple[int, ...]:
        """Arguments of the kernels for tiles of queries."""
        return (
            *(self.heads, self.query_windows, self.query_columns, self.key_columns),
            *(self.height, self.width, self.topk),
        )

    def of_keys(self) -> tuple[int, ...]:
        """Arguments of the kernel for tiles of keys."""
        return (
            *(self.heads, self.key_windows, self.query_windows),
            *(self.query_columns, self.key_columns, self.height, self.width),
        )


def strides(*maps: Tensor) -> tuple[int, ...]:
    """The strides of maps (N, H, W, C), without those of the channels, which are 1."""
    return tuple(stride for x in maps for stride in x.stride()[:3])


def readable(x: Tensor) -> Tensor:
    """A map whose channels lie side by side; a copy only if those of ``x`` do not."""
    return x if x.stride(3) == 1 else x.contiguous()


@torch.library.custom_op("models_mm::routed_attention", mutates_args=())
def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    heads: int,
    height: int,
    width: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention of each window of queries to the windows of keys and values of its index.

    Args:
        q: queries (N, H', W', C).
        k: keys (N, H, W, C).
        v: values (N, H, W, C).
        index: int32 (N, P', topk), the windows numbered within their image.
        heads: h; d is one of ``forms.KERNEL_WIDTHS``.
        height: of a window.
        width: of a window.
        scale: factor on the logits.

    Returns:
        The output (N, H', W', C), and the logarithm of the softmax' sums (N * P', h, M) to base 2.
    """
    q, k, v = map(readable, (q, k, v))
    out, lse = results(q, index, heads, height, width)
    windows = Geometry(q, k, index, heads, (height, width))
    own, keys = tile(windows.pixels, q.dtype), walked(windows.topk * windows.pixels, q.dtype)
    with torch.cuda.device_of(q):  # triton starts kernels on the current GPU
        _forward[(windows.query_rows * heads, triton.cdiv(windows.pixels, own))](
            *(q, k, v, index.contiguous(), out, lse),
            *strides(q, k, v, out),
            *windows.of_queries(),
            **settings(q.dtype, q.shape[3] // heads, scale, own, keys),
        )
    return out, lse


@routed_attention.register_fake
def _(q, k, v, index, heads, height, width, scale):
    return results(q, index, heads, height, width)


def results(q: Tensor, index: Tensor, heads: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Empty tensors for what :func:`routed_attention` returns."""
    rows, dtype = index.shape[0] * index.shape[1], torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty((rows, heads, height * width), dtype=dtype)


@torch.library.custom_op("models_mm::routed_attention_backward", mutates_args=())
def routed_attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    out: Tensor,
    lse: Tensor,
    heads: int,
    height: int,
    width: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values of :func:`routed_attention`."""
    q, k, v, grad_out = (*map(readable, (q, k, v)), grad_out.contiguous())
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    mean = torch.empty_like(lse)
    windows = Geometry(q, k, index, heads, (height, width))
    # how long the list of a window of keys is only the GPU knows; on average, as that of queries
    own, other = tile(windows.pixels, q.dtype), walked(windows.topk * windows.pixels, q.dtype)
    tiles, width_of_head = triton.cdiv(windows.pixels, own), q.shape[3] // heads
    rows, firsts = selecting_rows(index, windows.key_windows)
    with torch.cuda.device_of(q):
        _backward_queries[(windows.query_rows * heads, tiles)](
            *(q, k, v, index.contiguous(), out, grad_out, lse, grad_q, mean),
            *strides(q, k, v, out),
            *windows.of_queries(),
            **settings(q.dtype, width_of_head, scale, own, other),
        )
        _backward_keys[(windows.key_rows * heads, tiles)](
            *(q, k, v, rows, firsts, grad_out, lse, mean, grad_k, grad_v),
            *strides(q, k, v, out, grad_k),
            *windows.of_keys(),
            **settings(q.dtype, width_of_head, scale, other, own),
        )
    return grad_q, grad_k, grad_v


@routed_attention_backward.register_fake
def _(grad_out, q, k, v, index, out, lse, heads, height, width, scale):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def selecting_rows(index: Tensor, windows: int) -> tuple[Tensor, Tensor]:
    """The rows of an index that select each window.

    Args:
        index: (N, P', topk), windows numbered within their image.
        windows: P, of an image.

    Returns:
        int32 (N * P' * topk): rows (N * P') in ascending order, window after window of all images;
        int32 (N * P + 1): where the list of each window begins, and the last one ends.
    """
    first = torch.arange(len(index), device=index.device, dtype=index.dtype) * windows
    keys, order = (index + first.view(-1, 1, 1)).flatten().sort(stable=True)
    every = torch.arange(len(index) * windows + 1, device=index.device, dtype=index.dtype)
    firsts = torch.searchsorted(keys, every, out_int32=True)
    return (order // index.shape[2]).int(), firsts


def _keep(ctx, inputs, output) -> None:
    q, k, v, index, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, index, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad_out: Tensor, _) -> tuple:
    grads = routed_attention_backward(grad_out, *ctx.saved_tensors, *ctx.settings)
    return *grads, None, None, None, None, None


routed_attention.register_autograd(_differentiate, setup_context=_keep)
