"""Linear layers of maps that store little for the backward pass."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .forms import linear_as_convolution


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of a contiguous (N, H, W, C); on some devices its rows become images."""
    return (
        _linear(x, weight, bias) if linear_as_convolution(x, weight) else F.linear(x, weight, bias)
    )


def linear_of(
    function: Callable[..., Tensor], x: Tensor, parameters: list[Tensor], *layers: list[Tensor]
) -> tuple[Tensor, ...]:
    """``linear(function(x, *parameters), *layer)`` for each of the layers.

    The backward pass calls the function again instead of storing its value, so the function should
    be cheap, such as a norm or an activation.

    Args:
        function: takes (N, H, W, C) and the parameters.
        x: (N, H, W, C), contiguous.
        parameters: further arguments of the function.
        layers: weight (C', C) and bias (C') of each linear layer.
    """
    if not torch.is_grad_enabled() or not linear_as_convolution(x, layers[0][0]):
        value = function(x, *parameters)
        return tuple(linear(value, *layer) for layer in layers)
    tensors = [tensor for layer in layers for tensor in layer]
    return _LinearOf.apply(function, len(parameters), x, *parameters, *tensors)


def _images(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N * H, C, 1, W), a view in channels-last layout."""
    return x.flatten(0, 1).unsqueeze(1).permute(0, 3, 1, 2)


def _tokens(x: Tensor, like: Tensor) -> Tensor:
    """(N * H, C', 1, W) -> (N, H, W, C'), with N, H, W of another tensor."""
    return x.permute(0, 2, 3, 1).reshape(*like.shape[:3], -1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _tokens(F.conv2d(_images(x), weight[:, :, None, None], bias), x)


def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias."""
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        _images(grad.contiguous()),
        _images(x),
        weight[:, :, None, None],
        [len(weight)],
        *((1, 1), (0, 0), (1, 1), False, (0, 0), 1),
        (True, True, True),
    )
    return _tokens(of_x, x), of_weight.flatten(1), of_bias


class _LinearOf(torch.autograd.Function):
    """The autograd function of :func:`linear_of`."""

    @staticmethod
    def forward(ctx, function, count, x, *tensors):
        ctx.function, ctx.count = function, count
        ctx.save_for_backward(x, *tensors)
        value = function(x, *tensors[:count])
        layers = tensors[count:]
        return tuple(_linear(value, *layers[i : i + 2]) for i in range(0, len(layers), 2))

    @staticmethod
    def backward(ctx, *grads):
        inputs, layers = ctx.saved_tensors[: ctx.count + 1], ctx.saved_tensors[ctx.count + 1 :]
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        with torch.enable_grad():
            value = ctx.function(*inputs)
        of_value, of_layers = None, []
        for grad, weight in zip(grads, layers[::2], strict=True):
            own, *rest = _linear_backward(grad, value.detach(), weight)
            of_value = own if of_value is None else of_value.add_(own)
            of_layers += rest
        return None, None, *torch.autograd.grad(value, inputs, of_value), *of_layers
