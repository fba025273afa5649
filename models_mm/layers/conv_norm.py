"""Convolution, batch norm and an optional activation, in as few passes over the map as possible.

A norm with fixed statistics is folded into the convolution before it. A norm that learns its
statistics stores only the output of the convolution for the backward pass, which computes the input
of the activation again. This saves a third of the memory of a light convolution path.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .forms import traceable
from .linear import linear


class Activation(NamedTuple):
    """An activation and its gradient, which overwrites the gradient of the output."""

    forward: Callable[..., Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "silu": Activation(F.silu, lambda grad, x: torch.ops.aten.silu_backward(grad, x, grad_input=x)),
    "hardswish": Activation(
        F.hardswish, lambda grad, x: torch.ops.aten.hardswish_backward(grad, x, out=x)
    ),
}


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution; for a channels-last map, a matrix product without a copy."""
    if traceable() or not x.is_contiguous(memory_format=torch.channels_last):
        return F.conv2d(x, weight, bias)
    return linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply ``conv`` with other weights."""
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1:
        return pointwise(x, weight, bias)
    return conv._conv_forward(x, weight, bias)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``; ``norm`` is a batch norm, or an identity once it is folded."""
    if not isinstance(norm, _BatchNorm) or norm.training:
        return norm(convolve(conv, x, conv.weight, conv.bias))
    # The map passes through memory once, because the weights contain the factor of the norm.
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return convolve(conv, x, conv.weight * scale.view(-1, 1, 1, 1), shift)


def conv_norm_act(conv: nn.Conv2d, norm: nn.Module, x: Tensor, act: str = "silu") -> Tensor:
    """``act(norm(conv(x)))``, as :func:`conv_norm`; ``act`` is one of ``ACTIVATIONS``."""
    if type(norm) is not nn.BatchNorm2d or not norm.training:
        x = conv_norm(conv, norm, x)
        return ACTIVATIONS[act].forward(x, inplace=not x.requires_grad)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormAct.apply(
        convolve(conv, x, conv.weight, conv.bias),
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.momentum,
        norm.eps,
        ACTIVATIONS[act],
    )


class _NormAct(torch.autograd.Function):
    """Batch norm with the statistics of the batch, then activation; stores only its input."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps, act):
        y, mean, inverse_std = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps, ctx.act = eps, act
        return act.forward(y, inplace=True)

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        y = F.batch_norm(x, mean, inverse_std.pow(-2), weight, bias, training=False, eps=0.0)
        grad = ctx.act.backward(grad, y)
        grads = torch.ops.aten.native_batch_norm_backward(
            grad,
            x,
            weight,
            None,
            None,
            mean,
            inverse_std,
            True,
            ctx.eps,
            ctx.needs_input_grad[:3],
        )
        return *grads, None, None, None, None, None
