"""Networks with kernel warehouses by their equations, with the weights of the package's models.

What the benchmark and the tests compare with: every image's kernel is assembled, permuted into
place, and the batch is convolved as groups of one image; norms and activations come after.

Shape legend: N batch, C channels, H, W map, m mixtures of a layer, M cells of its warehouse, co, ci
channels of a cell, S, Go, Gi kernel positions, output and input blocks of the layer.
"""

import torch
import torch.nn.functional as F
from mmdet.models import build_backbone
from torch import Tensor, nn

from models_mm.backbones import ConvNeXt, KW_MobileNetV2, KW_ResNet
from models_mm.layers.warehouse import WarehouseConv2d


def build(name: str) -> nn.Module:
    """The direct formulation of a registered backbone with kernel warehouses."""
    return Direct(build_backbone(dict(type=name)))


class Direct(nn.Module):
    """Calls the layers of ``model`` that hold weights, and none of its forwards."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        networks = {KW_ResNet: resnet, KW_MobileNetV2: mobilenetv2, ConvNeXt: convnext}
        self.network = next(f for cls, f in networks.items() if isinstance(model, cls))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> one (N, C, H, W) per out index of the model."""
        outs = self.network(self.model, x)
        return tuple(outs[i] for i in self.model.out_indices)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution, plain or from a warehouse: (N, C, H, W) -> (N, C', H', W')."""
    if not isinstance(conv, WarehouseConv2d):
        return conv(x)
    batch, channels, height, width = x.shape
    kernel = assembled(conv, x)
    y = F.conv2d(
        x.reshape(1, batch * channels, height, width),
        kernel,
        stride=conv.stride,
        padding=conv.padding,
        groups=batch * conv.groups,
    )
    y = y.view(batch, -1, *y.shape[2:])
    return y if conv.bias is None else y + conv.bias.view(1, -1, 1, 1)


def assembled(conv: WarehouseConv2d, x: Tensor) -> Tensor:
    """The kernels of all images: (N, C, H, W) -> (N out, in / groups, kh, kw)."""
    cells = conv._manager[0].weights[conv.warehouse]  # (M, co, ci, 1, 1)
    count, co, ci = cells.shape[:3]
    out, inputs, kh, kw = conv.weight_shape
    u = attend(conv.attention, x).reshape(-1, count + 1)  # (N m, M + 1)
    factors = u / (u.abs().sum(1, keepdim=True) + 1e-3)
    blocks = factors[:, :-1] @ cells.reshape(count, co * ci)  # (N m, co ci)
    blocks = blocks.view(len(x), kh * kw, out // co, inputs // ci, co, ci)
    blocks = blocks.permute(0, 2, 4, 3, 5, 1)  # (N, Go, co, Gi, ci, S)
    return blocks.reshape(len(x) * out, inputs, kh, kw)


def attend(attention: nn.Module, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, m (M + 1))."""
    pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
    return attention.fc2(F.relu(attention.norm1(attention.fc1(pooled))))


def resnet(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = F.relu(model.bn1(model.conv1(x)), inplace=True)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    outs = []
    for i in range(1, 5):
        for block in getattr(model, f"layer{i}"):
            out = F.relu(block.bn1(convolve(block.conv1, x)), inplace=True)
            out = block.bn2(convolve(block.conv2, out))
            if hasattr(block, "conv3"):
                out = block.bn3(convolve(block.conv3, F.relu(out, inplace=True)))
            if block.downsample is not None:
                x = block.downsample[1](convolve(block.downsample[0], x))
            x = F.relu(x + block.drop_path(out), inplace=True)
        outs.append(x)
    return outs


def mobilenetv2(model: nn.Module, x: Tensor) -> list[Tensor]:
    outs = []
    for i, feature in enumerate(model.features):
        if i in (0, 18):
            x = F.relu6(feature[1](convolve(feature[0], x)), inplace=True)
        else:
            *wide, project, norm = feature.conv
            out = x
            for conv, wide_norm in wide:
                out = F.relu6(wide_norm(convolve(conv, out)), inplace=True)
            out = norm(convolve(project, out))
            x = x + feature.drop_path(out) if feature.residual else out
        if i in (1, 3, 6, 13, 18):
            outs.append(x)
    return outs


def convnext(model: nn.Module, x: Tensor) -> list[Tensor]:
    outs = []
    for i in range(4):
        first, second = model.downsample_layers[i]
        x = norm(second, convolve(first, x)) if i == 0 else convolve(second, norm(first, x))
        for block in model.stages[i]:
            out = norm(block.norm, convolve(block.dwconv, x))
            out = convolve(block.pwconv2, F.gelu(convolve(block.pwconv1, out)))
            if block.gamma is not None:
                out = block.gamma.view(1, -1, 1, 1) * out
            x = x + block.drop_path(out)
        outs.append(norm(getattr(model, f"norm{i}"), x))
    return outs


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm over the channels of (N, C, H, W)."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + layer.eps)
    return layer.weight[:, None, None] * x + layer.bias[:, None, None]
