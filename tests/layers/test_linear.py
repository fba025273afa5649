"""Linear layers by convolution against PyTorch's own, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from models_mm.layers.linear import linear, linear_of


def data(*shape, dtype):
    generator = torch.Generator().manual_seed(0)
    x, *layers = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for size in (shape, (24, shape[-1]), (24,), (8, shape[-1]), (8,))
    )
    return x, layers[:2], layers[2:]


def assert_same(actual, expected, dtype):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        assert (a - e).abs().max() <= tolerance * e.abs().max()


def gradients(outs, inputs):
    return torch.autograd.grad(sum((out * (out + 1)).sum() for out in outs), inputs)


# enough rows for the fast way, too few, one, and rows of one pixel
SHAPES = [(2, 16, 12, 40), (1, 7, 10, 40), (1, 1, 1, 40), (3, 33, 1, 40)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contiguous", [True, False])
def test_linear(shape, dtype, contiguous):
    x, layer, _ = data(*shape, dtype=dtype)
    seen = x if contiguous else x.transpose(1, 2)
    inputs = (x, *layer)
    for bias in (layer[1], None):
        used = inputs if bias is not None else inputs[:2]
        actual, expected = linear(seen, layer[0], bias), F.linear(seen, layer[0], bias)
        assert_same([actual], [expected], dtype)
        assert_same(gradients([actual], used), gradients([expected], used), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_layers_of_a_norm(shape, dtype):
    def norm(x, weight, bias):
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    x, first, second = data(*shape, dtype=dtype)
    affine = [
        torch.linspace(0.5, 2, 40, dtype=dtype, requires_grad=True),
        torch.linspace(-1, 1, 40, dtype=dtype, requires_grad=True),
    ]
    actual = linear_of(norm, x, affine, first, second)
    expected = [F.linear(norm(x, *affine), *layer) for layer in (first, second)]
    inputs = (x, *affine, *first, *second)
    assert_same(actual, expected, dtype)
    assert_same(gradients(actual, inputs), gradients(expected, inputs), dtype)


def test_what_is_computed_again_is_not_kept():
    """Of an activation's value nothing is left for the backward pass but its input."""
    kept = []
    x, layer, _ = data(2, 16, 12, 40, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        (out,) = linear_of(F.gelu, x, [], layer)
    assert [tuple(t.shape) for t in kept] == [tuple(t.shape) for t in (x, *layer)]
    out.sum().backward()


def test_autocast_decides_the_precision():
    x, layer, _ = data(2, 16, 12, 40, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        (out,) = linear_of(F.gelu, x, [], layer)
    assert out.dtype == torch.bfloat16
    assert (out - F.linear(F.gelu(x), *layer)).abs().max() < 0.1
