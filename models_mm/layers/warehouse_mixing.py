"""The product of factors and cells, which gives the kernels, and its gradients.

The product needs little arithmetic and much memory traffic: every layer reads all cells of its
warehouse. Autograd would also write a gradient of all cells per layer, and add them. Here, layers
that share cells in one forward pass share a :class:`CellCache`. It collects the terms of their
gradients, and computes one product of all terms after the last layer.

Shape legend: M cells of a warehouse, P entries of a cell, R rows of a layer (images x mixtures).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .forms import onednn_product


class CellCache:
    """The cells of one warehouse for the layers of one forward pass.

    Args:
        weight: the parameter, (M, ...).

    Attributes:
        cells: (M, P) in the precision of the products.
        proxy: an empty tensor that connects the layers with the parameter in autograd's graph.
    """

    def __init__(self, weight: Tensor):
        device = weight.device.type
        self.cells = weight.detach().flatten(1)
        # CPUs have no fast product in float16, and other formats are not faster
        if device != "cpu" and torch.is_autocast_enabled(device):
            self.cells = self.cells.to(torch.get_autocast_dtype(device))
        self.proxy = _Opened.apply(weight, self)
        self.returned: list[tuple[Tensor, Tensor]] = []

    def gradient(self) -> Tensor | None:
        """The gradient of the cells, (M, P), from the terms of all layers."""
        if not self.returned:
            return None
        factors, grads = zip(*self.returned, strict=True)
        self.returned = []
        if len(grads) > 1:
            return product(torch.cat(factors).T, torch.cat(grads))
        return product(factors[0].T, grads[0])


class _Opened(torch.autograd.Function):
    """Makes the proxy of a cache; its backward runs after those of all layers that used it."""

    @staticmethod
    def forward(ctx, weight, cache):
        ctx.cache, ctx.like = cache, (weight.shape, weight.dtype)
        return weight.new_empty(())

    @staticmethod
    @once_differentiable
    def backward(ctx, _):
        gradient = ctx.cache.gradient()
        if gradient is not None:
            shape, dtype = ctx.like
            gradient = gradient.view(shape).to(dtype)
        return gradient, None


def mix(factors: Tensor, cache: CellCache) -> Tensor:
    """``factors @ cells``: (R, M) -> (R, P)."""
    return _Mixed.apply(factors.to(cache.cells.dtype), cache.proxy, cache)


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, factors, proxy, cache):
        ctx.save_for_backward(factors, cache.cells)
        ctx.cache = cache
        return product(factors, cache.cells)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        factors, cells = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.cache.returned.append((factors, grad))
        return product(grad, cells.T) if ctx.needs_input_grad[0] else None, None, None


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices."""
    with torch.autocast(a.device.type, enabled=False):
        if onednn_product(a):
            linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
            if linear is not None:
                return linear(a.contiguous(), b.T, None, "none", [], "")
        return a @ b
