"""A depthwise convolution with two outputs per channel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forms import two_depthwise_halves


class TwoPerChannel(nn.Module):
    """A depthwise convolution with two outputs per channel, for inference.

    (N, C, H, W) -> (N, 2C, H', W'), as the convolution that it is made of.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if not two_depthwise_halves(x):
            return conv(x)
        halves = [
            F.conv2d(
                x, conv.weight[i::2], conv.bias[i::2], conv.stride, conv.padding, 1, conv.groups
            )
            for i in range(2)
        ]  # each (N, C, H, W), one for the even outputs, one for the odd ones
        pairs = torch.stack([half.permute(0, 2, 3, 1) for half in halves], -1)  # (N, H, W, C, 2)
        return pairs.flatten(3).permute(0, 3, 1, 2)  # (N, 2C, H, W), channels_last
