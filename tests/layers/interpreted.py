"""The Triton kernels of routing attention on the CPU; `test_routing_kernels.py` calls this file.

It needs ``TRITON_INTERPRET=1`` before triton is imported. The interpreter computes what the kernels
say, with numpy. It rounds bfloat16 wrongly, so that format is tested on a GPU only.
"""

from math import ceil

import pytest
import torch

from models_mm.layers.forms import use_forms
from models_mm.layers.routing_attention import routing_attention
from models_mm.layers.routing_kernels import routed_attention, selecting_rows, tile
from tests.layers.test_routing_attention import gradients, maps, routing_equation

HEADS, HEAD_WIDTH, SCALE = 2, 16, 0.2
# The windows of the three routed stages of BiFormer, and the windows that each attends to, ...
TOPKS = {4: 1, 8: 4, 16: 16}  # by stride
# ... for images of these sizes; small ones as in the demo, those of multi-scale training, COCO's.
IMAGES = [
    *((64, 64), (96, 128), (224, 224), (256, 320), (320, 416)),
    *((480, 800), (512, 512), (608, 1088), (800, 1088), (800, 1344)),
]
# The largest relative difference from float64: some roundings of the format.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def kernels():
    with use_forms(routing_kernel=True):
        yield


def windows_of(images, stride) -> list[tuple[int, int]]:
    """The sizes of windows, 16 by 16 in a map, that images of these sizes have; each once."""
    sizes = {tuple(ceil(ceil(side / stride) / 16) for side in image) for image in images}
    return sorted(sizes)


SHAPES = [(stride, window) for stride in TOPKS for window in windows_of(IMAGES, stride)]


def check(inputs, grid, topk, tolerance, call=None):
    """Compare output and gradients with the equation in float64."""
    call = call or (lambda q, k, v: routing_attention(q, k, v, HEADS, grid, topk, SCALE))
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected, _ = routing_equation(*exact, HEADS, grid, topk, SCALE)
    out = call(*inputs)
    pairs = zip(
        [out, *gradients(out, inputs)], [expected, *gradients(expected, exact)], strict=True
    )
    for actual, wanted in pairs:
        assert actual.dtype == inputs[0].dtype and actual.shape == wanted.shape
        # one key gives gradients of queries and keys that are zero
        scale = max(wanted.norm(), expected.norm())
        assert (actual.double() - wanted).norm() <= tolerance * scale


def grid_for(topk: int) -> int:
    """The fewest windows per side of which ``topk`` can be selected, and others are left."""
    return {1: 2, 4: 3, 16: 5}[topk]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(("stride", "window"), SHAPES)
def test_windows_of_images(stride, window, dtype):
    grid = grid_for(TOPKS[stride])
    shape = (1, grid * window[0], grid * window[1], HEADS * HEAD_WIDTH)
    inputs = well_separated(maps(*shape, dtype=dtype), grid)
    check(inputs, grid, TOPKS[stride], TOLERANCES[dtype])


def well_separated(inputs, grid):
    """Move the keys of each window, so that rounding decides on no window."""
    with torch.no_grad():
        rows = inputs[1].shape[1] // grid, inputs[1].shape[2] // grid
        inputs[0].abs_()
        for window in range(grid * grid):
            y, x = window // grid * rows[0], window % grid * rows[1]
            inputs[1][:, y : y + rows[0], x : x + rows[1]] += window / 2
    return inputs


@pytest.mark.parametrize("topk", [1, 4, 9])
def test_three_images_in_float64(topk):
    check(maps(3, 9, 15, HEADS * HEAD_WIDTH), 3, topk, TOLERANCES[torch.float64])


def test_gradcheck():
    inputs = maps(1, 4, 6, 16)
    assert torch.autograd.gradcheck(
        lambda q, k, v: routing_attention(q, k, v, heads=1, grid=2, topk=2, scale=0.5),
        inputs,
        fast_mode=True,
    )


def test_maps_that_are_views():
    """As BiFormer has them: thirds of one map, and queries in another order in memory."""
    torch.manual_seed(0)
    packed = torch.randn(2, 9, 6, 3 * HEADS * HEAD_WIDTH, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in packed.chunk(3, -1)]
    assert not inputs[1].is_contiguous()
    with torch.no_grad():
        inputs[0] = inputs[0].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    inputs[0].requires_grad_()
    assert inputs[0].stride(3) != 1
    check(inputs, 3, 2, TOLERANCES[torch.float64])


def test_queries_of_the_first_windows_only():
    q, k, v = maps(2, 12, 8, HEADS * HEAD_WIDTH)
    whole = routing_attention(q, k, v, HEADS, 4, 3, SCALE)
    part = routing_attention(q[:, :9, :4], k, v, HEADS, 4, 3, SCALE)
    assert torch.allclose(part, whole[:, :9, :4], rtol=0, atol=1e-13)


def test_padding_and_ties():
    """The lower half is padding: the same key and value everywhere, and ties exactly."""
    inputs = maps(1, 8, 8, HEADS * HEAD_WIDTH)
    with torch.no_grad():
        for x in inputs:
            x[:, 4:] = 3.0
    flipped = [x.flip(2) for x in inputs]
    out = routing_attention(*inputs, HEADS, 4, 5, SCALE)
    other = routing_attention(*flipped, HEADS, 4, 5, SCALE).flip(2)
    assert (out - other).abs().max() <= 1e-13 * out.abs().max()


def test_all_queries_select_one_window():
    """The gradients of one window add up over all others; those of the others are zero."""
    inputs = maps(2, 6, 9, HEADS * HEAD_WIDTH)
    with torch.no_grad():
        inputs[0].abs_()
        inputs[1][:, :2, :3] += 4
    check(inputs, 3, 1, TOLERANCES[torch.float64])
    out = routing_attention(*inputs, HEADS, 3, 1, SCALE)
    _, of_keys, _ = gradients(out, inputs)
    assert not of_keys[:, 2:].any() and not of_keys[:, :, 3:].any() and of_keys[:, :2, :3].all()


def test_large_logits_do_not_overflow():
    inputs = maps(1, 6, 6, HEADS * HEAD_WIDTH, dtype=torch.float32)
    with torch.no_grad():
        inputs[0] *= 100
    out = routing_attention(*inputs, HEADS, 2, 2, 1.0)
    assert out.isfinite().all() and all(g.isfinite().all() for g in gradients(out, inputs))


def test_what_training_keeps_does_not_grow_with_topk():
    def kept(topk):
        stored = {}
        inputs = maps(1, 10, 10, HEADS * HEAD_WIDTH, dtype=torch.float32)

        def pack(x):
            stored[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = routing_attention(*inputs, HEADS, 5, topk, SCALE)
        index = 25 * topk * 4
        return sum(stored.values()) - index, out.nbytes

    few, one_map = kept(1)
    assert few <= 4 * one_map + one_map // HEAD_WIDTH  # q, k, v, the output and a sum per query
    assert kept(16)[0] == few


def test_lists_of_the_rows_that_select_a_window():
    torch.manual_seed(0)
    index = torch.rand(3, 5, 7).argsort(-1)[:, :, :4].int()  # 4 of 7 windows, for 5 of queries
    rows, firsts = selecting_rows(index, 7)
    for image in range(3):
        for window in range(7):
            first, last = firsts[7 * image + window], firsts[7 * image + window + 1]
            expected = [5 * image + r for r in range(5) if window in index[image, r]]
            assert rows[first:last].tolist() == expected


def test_pytorch_knows_the_operator():
    """Shapes and number formats without data, and gradients, are as PyTorch demands of its own."""
    q, k, v = maps(2, 4, 4, 16, dtype=torch.float32)
    index = torch.tensor([[[0], [1], [3], [1]]] * 2, dtype=torch.int32)
    torch.library.opcheck(routed_attention, (q, k, v, index, 1, 2, 2, 0.5))


def test_tiles_fit_the_windows():
    assert [tile(pixels, torch.bfloat16) for pixels in (273, 77, 24)] == [64, 32, 32]
    assert [tile(pixels, torch.float32) for pixels in (273, 77, 24)] == [32, 32, 32]
    assert tile(1, torch.float16) == tile(16, torch.float16) == 16
