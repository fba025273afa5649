"""Routing attention against its equation written out: a gather of an expanded view, all softmax."""

import pytest
import torch

from models_mm.layers import forms
from models_mm.layers import routing_attention as module
from models_mm.layers.routing_attention import routing_attention

TOLERANCE = 1e-12


def windows(x, grid):
    """(N, H, W, C) -> (N, grid * grid, pixels, C)."""
    rows = [row.chunk(grid, 2) for row in x.chunk(grid, 1)]
    return torch.stack([window.flatten(1, 2) for row in rows for window in row], 1)


def map_of(x, grid, height, width):
    """The inverse of :func:`windows`."""
    n, _, _, channels = x.shape
    size = height // grid, width // grid
    rows = x.view(n, grid, grid, *size, channels).unbind(1)
    return torch.cat([torch.cat(row.unbind(1), 2) for row in rows], 1)


def routing_equation(q, k, v, heads, grid, topk, scale):
    """softmax(scale q k^T) v by heads, over the pixels of the topk windows of largest mean product.

    Returns the output and the indices of the chosen windows (N, P, topk).
    """
    shape = q.shape
    q, k, v = (windows(x, grid) for x in (q, k, v))
    logits = scale * torch.einsum("npc,nwc->npw", q.mean(2), k.mean(2)).detach()
    index = logits.argsort(-1, descending=True)[:, :, :topk]  # (N, P, topk)
    n, count, pixels, channels = k.shape

    def gathered(x):
        every = x[:, None].expand(n, count, count, pixels, channels)  # all windows, for each window
        chosen = every.gather(2, index[..., None, None].expand(n, count, topk, pixels, channels))
        return chosen.flatten(2, 3)  # (N, P, topk * pixels, C)

    outputs = [
        torch.softmax(scale * q_head @ k_head.transpose(-2, -1), -1) @ v_head
        for q_head, k_head, v_head in zip(
            *(x.chunk(heads, -1) for x in (q, gathered(k), gathered(v))), strict=True
        )
    ]
    return map_of(torch.cat(outputs, -1), grid, *shape[1:3]), index


def maps(*shape, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]


def gradients(out, inputs):
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * weights).sum(), inputs)


@pytest.fixture(params=["one chunk", "a row at a time", "chunks of three"])
def chunks(request, monkeypatch):
    """Sizes of the gather that must make no difference."""
    if request.param == "a row at a time":
        monkeypatch.setattr(forms, "CPU_GATHER_BYTES", 1)
    if request.param == "chunks of three":
        monkeypatch.setattr(module, "_chunks", three_at_a_time(module._chunks, monkeypatch))


def three_at_a_time(chunks, monkeypatch):
    def call(k, v, index):
        row = 2 * index.shape[1] * k[0].numel() * k.element_size()
        monkeypatch.setattr(forms, "CPU_GATHER_BYTES", -(-3 * row // torch.get_num_threads()))
        return chunks(k, v, index)

    return call


@pytest.mark.parametrize("topk", [1, 4, 16])
@pytest.mark.parametrize("size", [(4, 4), (8, 4), (12, 20)])
def test_is_its_equation(size, topk, chunks):
    inputs = maps(3, *size, 12)
    out = routing_attention(*inputs, heads=2, grid=4, topk=topk, scale=0.3)
    expected, _ = routing_equation(*inputs, 2, 4, topk, 0.3)
    pairs = zip(
        [out, *gradients(out, inputs)], [expected, *gradients(expected, inputs)], strict=True
    )
    for actual, wanted in pairs:
        assert actual.shape == wanted.shape
        # one key gives gradients of queries and keys that are zero
        assert (actual - wanted).abs().max() <= TOLERANCE * max(1, wanted.abs().max())


def test_gradients_are_those_of_the_function():
    inputs = maps(2, 4, 6, 4)
    assert torch.autograd.gradcheck(
        lambda q, k, v: routing_attention(q, k, v, heads=2, grid=2, topk=2, scale=0.5), inputs
    )


def test_queries_may_cover_the_first_windows_only():
    q, k, v = maps(2, 12, 8, 8)
    whole = routing_attention(q, k, v, heads=2, grid=4, topk=3, scale=0.3)
    part = routing_attention(q[:, :9, :4], k, v, heads=2, grid=4, topk=3, scale=0.3)
    assert torch.allclose(part, whole[:, :9, :4], rtol=0, atol=1e-14)


def test_among_tied_windows_any_may_be_chosen():
    # The lower half of the map is padding: the same key and value everywhere, and ties exactly.
    inputs = maps(1, 8, 8, 8)
    with torch.no_grad():
        for x in inputs:
            x[:, 4:] = 3.0
    flipped = [x.flip(2) for x in inputs]  # meets the tied windows in another order
    out = routing_attention(*inputs, heads=2, grid=4, topk=5, scale=1.0)
    other = routing_attention(*flipped, heads=2, grid=4, topk=5, scale=1.0).flip(2)
    assert (out - other).abs().max() <= TOLERANCE * out.abs().max()


def test_identical_calls_give_identical_bits():
    def call():
        inputs = maps(2, 16, 16, 64, dtype=torch.float32)
        out = routing_attention(*inputs, heads=2, grid=8, topk=4, scale=0.125)
        return [out, *gradients(out, inputs)]

    assert all(torch.equal(a, b) for a, b in zip(call(), call(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    inputs = maps(2, 16, 16, 64, dtype=dtype)
    # one window stands out, so that all queries choose it and its gradients add up many terms
    with torch.no_grad():
        inputs[0].abs_()
        inputs[1][:, :2, :2] += 4
    out = routing_attention(*inputs, heads=2, grid=8, topk=1, scale=0.125)
    assert out.dtype == dtype
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected, _ = routing_equation(*exact, 2, 8, 1, 0.125)
    pairs = zip(
        [out, *gradients(out, inputs)], [expected, *gradients(expected, exact)], strict=True
    )
    for actual, wanted in pairs:
        assert actual.dtype == dtype
        error = (actual.double() - wanted).norm() / wanted.norm()
        assert error <= 8 * torch.finfo(dtype).eps, error


def saved_bytes(topk):
    """What autograd keeps for the backward pass of one call, each storage once."""
    kept = {}
    inputs = maps(1, 32, 32, 64, dtype=torch.float32)

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = routing_attention(*inputs, heads=2, grid=8, topk=topk, scale=0.125)
    index = 64 * topk * 8
    return sum(kept.values()) - index, out.nbytes


def test_what_training_keeps_does_not_grow_with_topk():
    kept, one_map = saved_bytes(topk=1)
    assert kept <= 4 * one_map  # q, k, v and the output
    assert saved_bytes(topk=16)[0] == kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(grid=5, topk=1), "no 5x5 windows, 1 at a time, in a map 8x8"),
        (dict(grid=4, topk=17), "17 at a time"),
        (dict(grid=4, topk=0), "0 at a time"),
    ],
)
def test_what_is_no_grid_of_windows_is_refused(settings, message):
    q, k, v = maps(1, 8, 8, 4)
    with pytest.raises(ValueError, match=message):
        routing_attention(q, k, v, heads=1, scale=1.0, **settings)
    with pytest.raises(ValueError, match="queries 7x8"):
        routing_attention(q[:, :7], k, v, heads=1, grid=4, topk=1, scale=1.0)
