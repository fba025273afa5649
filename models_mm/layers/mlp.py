"""The norm and the MLP of a transformer block, which store little for the backward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forms import mlp_rows
from .linear import linear, linear_of


def norm_mlp(x: Tensor, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear) -> Tensor:
    """``second(gelu(first(norm(x))))`` with the exact GELU: (N, H, W, C) -> (N, H, W, C)."""
    into, out_of = (first.weight, first.bias), (second.weight, second.bias)
    rows = mlp_rows(x, len(first.weight))
    if rows is None:
        (hidden,) = linear_of(norm_of(norm), x, [norm.weight, norm.bias], into)
        (out,) = linear_of(F.gelu, hidden, [], out_of)
        return out
    outs = []
    for part in x.flatten(0, 1)[None].split(rows, 1):
        hidden = torch.ops.aten.gelu_(linear(norm(part), *into))
        outs.append(linear(hidden, *out_of))
    return torch.cat(outs, 1).view_as(x)


def norm_of(norm: nn.LayerNorm):
    """A layer norm as a function of the tokens, its weight and its bias."""

    def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)

    return normalised
