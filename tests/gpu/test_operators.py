"""Operators on a GPU: routed attention by its kernels, window attention, warehouses."""

import pytest
import torch

from models_mm.layers.forms import use_forms
from models_mm.layers.routing_attention import routing_attention
from models_mm.layers.window_attention import WindowAttention, window_grid
from tests.layers.test_routing_attention import gradients, routing_equation

from .conftest import needs_gpu

pytestmark = needs_gpu

# Height and width of the windows of the stages at 800x1344, and how many are selected.
STAGES = [((13, 21), 1), ((7, 11), 4), ((4, 6), 16)]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 5e-2}


def inputs_of(window, dtype, batch=2, grid=16, channels=64):
    """Queries, keys and values on the GPU; the windows' keys differ so much that rounding to 16
    bits decides on no window."""
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (batch, grid * window[0], grid * window[1], channels)
    q, k, v = (torch.randn(shape, device="cuda", generator=generator) for _ in range(3))
    steps = torch.randperm(grid * grid, device="cuda", generator=generator).view(1, grid, grid, 1)
    steps = steps.repeat_interleave(window[0], 1).repeat_interleave(window[1], 2)
    k += steps / (grid * grid) * 16
    return [x.to(dtype).requires_grad_() for x in (q.abs(), k, v)]


def outcome(inputs, topk, kernel: bool):
    with use_forms(routing_kernel=kernel):
        out = routing_attention(*inputs, heads=2, grid=16, topk=topk, scale=0.125)
        return [out, *gradients(out, inputs)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("window", "topk"), STAGES)
@pytest.mark.parametrize("kernel", [False, True], ids=["plain", "kernel"])
def test_routed_attention(window, topk, dtype, kernel, exact_float32):
    inputs = inputs_of(window, dtype, batch=1)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = outcome(exact, topk, kernel=False)
    for actual, wanted in zip(outcome(inputs, topk, kernel), expected, strict=True):
        assert actual.dtype == dtype
        error = (actual.double() - wanted).norm() / wanted.norm()
        assert error <= TOLERANCES[dtype], f"{error:.1e}"


def test_plain_form_is_the_equation():
    inputs = [x.double().detach().requires_grad_() for x in inputs_of((2, 3), torch.float64)]
    expected, _ = routing_equation(*inputs, 2, 16, 4, 0.125)
    for actual, wanted in zip(
        outcome(inputs, 4, kernel=False), [expected, *gradients(expected, inputs)], strict=True
    ):
        assert (actual - wanted).abs().max() <= 1e-10 * wanted.abs().max()


@pytest.mark.parametrize(("window", "topk"), STAGES)
def test_kernels_repeat_their_bits(window, topk):
    first, second = (outcome(inputs_of(window, torch.bfloat16), topk, True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_kernels_store_no_gathered_copy():
    inputs = inputs_of((4, 6), torch.bfloat16, batch=8)
    outcome(inputs, 16, kernel=True)  # compiled, and the caches of the allocator filled
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with use_forms(routing_kernel=True), torch.no_grad():
        routing_attention(*inputs, heads=2, grid=16, topk=16, scale=0.125)
    # the output, the means of windows, and the routing; a copy would take 16 times the keys
    assert torch.cuda.max_memory_allocated() - before < 4 * inputs[1].nbytes


def test_windows_are_laid_out_without_waiting():
    module = WindowAttention(32, 2, 7, 3).cuda()
    x = torch.randn(2, 33, 50, 32, device="cuda")
    window_grid.cache_clear()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
