"""Convolutions whose kernels are mixed per image from cells that layers share.

Paper: Li, Yao, "KernelWarehouse: Rethinking the Design of Dynamic Convolution", ICML 2024
(arXiv 2406.07879). Each block of a layer's kernel is a linear mixture of all cells of the layer's
warehouse; a small attention network on the layer's pooled input gives the factors, which may be
negative and whose magnitudes sum to just under one. ``warehouse_plan.py`` decides which layers
share which cells, without tensors; this file computes.

A network declares its layers with a manager, which then builds them all:

    self.warehouse_manager = WarehouseManager(sharing_range=("layer", "conv"))
    self.conv = self.warehouse_manager.conv2d("stage0_layer0_conv0", 16, 32, 3, padding=1)
    self.warehouse_manager.build(self)  # after the last layer

Shape legend: N batch, H, W map, m mixtures of a layer, M cells of its warehouse, co, ci channels of
a cell, S, Go, Gi kernel positions, output and input blocks of the layer (m = S * Go * Gi).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models_mm.layers.forms import traceable
from models_mm.layers.warehouse_mixing import CellCache, mix
from models_mm.layers.warehouse_plan import (
    LayerShape,
    PlannedLayer,
    PlannedWarehouse,
    WarehousePlan,
    plan_warehouses,
)

EPS = 1e-3  # added to the sum of magnitudes
SMALLEST_HIDDEN = 16
# Arguments that a network's constructor passes to its WarehouseManager, besides the sharing range.
WAREHOUSE_SETTINGS = (
    *("cell_num_ratio", "cell_outplane_ratio", "cell_inplane_ratio", "spatial_partition"),
    *("nonlocal_basis_ratio", "reduction"),
)
NORMS = {"BN": nn.BatchNorm1d, "LN": nn.LayerNorm}


class Attention(nn.Module):
    """The factors of a layer's mixtures: pooled input (N, in) -> (N, m, M).

    Args:
        channels: input channels of the layer.
        layer: the plan of the layer.
        cells: M.
        reduction: hidden width as a fraction of the channels; the width is at least 16.
        norm: ``'BN'`` or ``'LN'``.
    """

    def __init__(self, channels: int, layer: PlannedLayer, cells: int, reduction: float, norm: str):
        super().__init__()
        hidden = max(int(channels * reduction), SMALLEST_HIDDEN)
        self.mixtures, self.own = layer.mixtures, layer.own
        self.fc1 = nn.Linear(channels, hidden, bias=norm == "LN")
        self.norm1 = NORMS[norm](hidden)
        # One column more than cells: it counts in the sum of magnitudes and mixes nothing.
        self.fc2 = nn.Linear(hidden, layer.mixtures * (cells + 1))
        for linear in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def fuse(self) -> None:
        """Fold the batch norm into ``fc1``, for inference."""
        if isinstance(self.norm1, nn.BatchNorm1d):
            scale, shift = norm_factors(self.norm1)
            self.fc1.weight = nn.Parameter(self.fc1.weight * scale[:, None], requires_grad=False)
            self.fc1.bias = nn.Parameter(shift, requires_grad=False)
            self.norm1 = nn.Identity()

    def forward(self, pooled: Tensor, temperature: float = 0.0) -> Tensor:
        u = self.fc2(F.relu(self.norm1(self.fc1(pooled)))).unflatten(1, (self.mixtures, -1))
        with torch.autocast(u.device.type, enabled=False):
            u = u.to(torch.promote_types(u.dtype, torch.float32))  # sums of hundreds
            factors = u[..., :-1] / (u.abs().sum(-1, keepdim=True) + EPS)
            if temperature:
                own = own_cells(self.own, factors.shape[-1], factors.device).to(factors)
                factors = (1 - temperature) * factors + temperature * own
        return factors


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The map (N, C, ...) itself, and its mean over all positions (N, C), the input of attentions.

    Only layers that also take the mean may use the returned map.
    """
    return _Pooled.apply(x) if x.requires_grad else (x, mean_over(x, 2, x.dim() - 1))


def mean_over(x: Tensor, first: int, last: int) -> Tensor:
    """The mean over the axes from ``first`` to ``last``.

    In an exported graph one axis after the other: ONNX Runtime adds all numbers in one row, and
    loses two digits over a large map.
    """
    if traceable():
        for _ in range(first, last + 1):
            x = x.mean(first)
        return x
    return x.flatten(first, last).mean(first)


class _Pooled(torch.autograd.Function):
    """Adds the gradient of the mean to that of the map in place, without another map."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x), x.flatten(2).mean(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, grad_mean):
        positions = grad[0, 0].numel()
        return grad.add_((grad_mean / positions).view(*grad.shape[:2], *(1,) * (grad.dim() - 2)))


def channels_last(x: Tensor) -> bool:
    """Whether a map (N, C, H, W) has the channels-last memory layout."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def norm_factors(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The factor and the summand of a batch norm in eval mode, each (C,)."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


@lru_cache(maxsize=256)
def own_cells(own: tuple[int, ...], cells: int, device: torch.device) -> Tensor:
    """(m, M): one at the own cell of each mixture, zero elsewhere."""
    with torch.inference_mode(False):
        return F.one_hot(torch.tensor(own), cells + 1)[:, :-1].to(device)


class WarehouseLayer(nn.Module):
    """Base class of layers with mixed kernels; a :class:`WarehouseManager` makes them.

    Args:
        manager: has the cells; it is not a child of this module.
        name: determines the warehouse.
        weight: shape of the kernel, (out, in / groups, *kernel size).
        groups: as in a convolution.
        bias: whether the layer has a bias.
    """

    def __init__(
        self,
        manager: "WarehouseManager",
        name: str,
        weight: Sequence[int],
        groups: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        self._manager = (
            manager,
        )  # in a tuple, because otherwise its cells would become parameters of this module
        self.name, self.weight_shape, self.groups = name, tuple(weight), groups
        self.out_channels = weight[0]
        self.bias = nn.Parameter(torch.zeros(weight[0])) if bias else None
        self.register_buffer("scale", None)
        self.attention: Attention | None = None
        self.warehouse = self.grid = None

    def extra_repr(self) -> str:
        return f"{self.name}, weight={self.weight_shape}, groups={self.groups}"

    @property
    def in_channels(self) -> int:
        return self.weight_shape[1] * self.groups

    def build(self, number: int, warehouse: PlannedWarehouse, layer: PlannedLayer) -> None:
        """Make the attention and take the cells of a plan."""
        manager = self._manager[0]
        self.warehouse, self.grid = number, layer.grid
        self.attention = Attention(
            self.in_channels, layer, warehouse.cells, manager.reduction, manager.norm
        )

    def cells(self) -> list[nn.Parameter]:
        """The cells of which its kernels are mixed; other layers may share them."""
        return [self._manager[0].weights[self.warehouse]]

    def mix(self, pooled: Tensor) -> Tensor:
        """Pooled input (N, in) -> kernels in blocks, (N, S, Go, Gi, co, ci, ...)."""
        if self.attention is None:
            raise RuntimeError(f"{self.name}: call the manager's build() after the last layer")
        manager = self._manager[0]
        factors = self.attention(pooled, manager.temperature)  # (N, m, M)
        factors = factors.flatten(0, 1)
        if traceable() or torch.compiler.is_compiling():  # the cache cannot be traced
            cells = manager.weights[self.warehouse].flatten(1)
            blocks = factors.to(cells.dtype) @ cells
        else:
            blocks = mix(factors, manager.cache(self.warehouse))  # (N m, co ci)
        return blocks.view(pooled.shape[0], *self.grid, *manager.weights[self.warehouse].shape[1:])

    def kernels(self, pooled: Tensor) -> Tensor:
        """Pooled input (N, in) -> kernels (N, out, in / groups, *kernel size)."""
        blocks = self.mix(pooled)
        # (N, S, Go, Gi, co, ci, ...) -> (N, Go, co, Gi, ci, S, ...)
        blocks = blocks.movedim((0, 1, 2, 3, 4, 5), (0, 5, 1, 3, 2, 4))
        return blocks.reshape(pooled.shape[0], *self.weight_shape)

    def fold(self, norm: nn.Module) -> None:
        """Fold the norm after this layer into it, for eval mode."""
        scale, shift = norm_factors(norm)
        if self.bias is not None:
            shift = shift + self.bias.detach() * scale
        del self.bias
        self.scale = scale
        self.register_buffer("bias", shift)


class WarehouseConv2d(WarehouseLayer):
    """2d convolution, (N, in, H, W) -> (N, out, H', W'), with the arguments of ``nn.Conv2d``."""

    def __init__(
        self,
        manager: "WarehouseManager",
        name: str,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = False,
    ):
        if isinstance(kernel_size, int):
            kernel_size = (kernel_size,) * self.DIMENSIONS
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups={groups} must divide {in_channels} and {out_channels}"
            )
        super().__init__(
            manager, name, (out_channels, in_channels // groups, *kernel_size), groups, bias
        )
        self.stride, self.padding, self.dilation = (
            (value,) * self.DIMENSIONS if isinstance(value, int) else tuple(value)
            for value in (stride, padding, dilation)
        )
        self.pointwise = groups == 1 and not any(self.padding) and set(kernel_size) == {1}

    DIMENSIONS = 2
    convolve = staticmethod(F.conv2d)

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Takes a map and, if :func:`pool` has been called before, its mean (N, in)."""
        if pooled is None:
            x, pooled = pool(x)
        kernels = self.kernels(pooled)
        scale, bias = self.scale, self.bias
        if scale is not None and kernels.numel() < x.numel():
            kernels, scale = kernels * scale.view(-1, *(1,) * (kernels.dim() - 2)), None
        if scale is not None:
            bias = None
        if traceable():
            y = self.convolve_traceably(x, kernels, bias)
        elif len(x) == 1 or channels_last(x):
            images = zip(x.split(1), kernels, strict=True)
            y = [self.convolve_one(image, kernel, bias, self.groups) for image, kernel in images]
            y = torch.cat(y) if len(x) > 1 else y[0]
        elif self.pointwise:
            x = x[(..., *(slice(None, None, step) for step in self.stride))]
            y = kernels.flatten(2) @ x.flatten(2)  # (N, out, H' W')
            if bias is not None:
                y += bias.view(-1, 1)
            y = y.view(len(x), -1, *x.shape[2:])
        else:
            # The images as groups of one large image: (1, N in, H, W).
            side_by_side = x.reshape(1, -1, *x.shape[2:])
            if bias is not None:
                bias = bias.repeat(len(x))
            y = self.convolve_one(side_by_side, kernels.flatten(0, 1), bias, self.groups * len(x))
            y = y.view(len(x), -1, *y.shape[2:])
        if scale is not None:
            shape = (-1, *(1,) * self.DIMENSIONS)
            y = torch.addcmul(self.bias.view(shape), y, scale.view(shape))
        return y

    def convolve_traceably(self, x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve each image with its kernel, in a loop that does not depend on their number."""
        from torch._higher_order_ops.scan import scan  # not in the oldest PyTorch

        def convolve(step: Tensor, image: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            y = self.convolve_one(image[0][None], image[1], bias, self.groups)
            return step.clone(), y[0]

        return scan(convolve, x.new_zeros(1), (x, kernels))[1]

    def convolve_one(self, x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return self.convolve(x, kernel, bias, self.stride, self.padding, self.dilation, groups)


class WarehouseConv1d(WarehouseConv2d):
    """1d convolution, (N, in, L) -> (N, out, L'), with the arguments of ``nn.Conv1d``."""

    DIMENSIONS = 1
    convolve = staticmethod(F.conv1d)


class WarehouseLinear(WarehouseLayer):
    """Linear layer, (N, ..., in) -> (N, ..., out), with one kernel per sample of the first axis."""

    def __init__(
        self, manager: "WarehouseManager", name: str, in_features: int, out_features: int, bias=True
    ):
        super().__init__(manager, name, (out_features, in_features), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernels(mean_over(x, 1, x.dim() - 2) if x.dim() > 2 else x)  # (N, out, in)
        rows = x.reshape(x.shape[0], -1, x.shape[-1])  # (N, L, in)
        y = rows @ kernels.mT
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)


class WarehouseManager(nn.Module):
    """Declares layers, plans their warehouses, and holds the cells.

    Args:
        sharing_range: tokens of layer names are shortened to these; layers with equal results share
            a warehouse (see :func:`warehouse_plan.warehouse_name`). A string is one entry.
        cell_num_ratio: cells per block of a kernel, the "n" of "KW (nx)".
        cell_outplane_ratio: output channels of a cell as a fraction of the greatest common divisor
            of the layers.
        cell_inplane_ratio: the same for input channels.
        spatial_partition: also cut kernels into their positions.
        nonlocal_basis_ratio: must be 1; the reduced attention of KW (1/2x) is not implemented.
        reduction: hidden width of the attentions as a fraction of the channels of a layer; the
            width is at least 16.
        norm: norm of the attentions, ``'BN'`` or ``'LN'``.

    Attributes:
        plan: the :class:`WarehousePlan` after :meth:`build`; it can be printed.
        temperature: in [0, 1], the share of its own cells in every kernel; 0 except at the start
            of a training from scratch (see :func:`temperature_at`).

    Raises:
        NotImplementedError: ``nonlocal_basis_ratio`` is not 1.
    """

    def __init__(
        self,
        sharing_range: Sequence[str] | str,
        cell_num_ratio: float | Sequence[float] = 1.0,
        cell_outplane_ratio: float | Sequence[float] = 1.0,
        cell_inplane_ratio: float | Sequence[float] = 1.0,
        spatial_partition: bool | Sequence[bool] = True,
        nonlocal_basis_ratio: float = 1.0,
        reduction: float = 0.0625,
        norm: str = "BN",
    ):
        super().__init__()
        if nonlocal_basis_ratio != 1:
            raise NotImplementedError("only nonlocal_basis_ratio=1 is implemented")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        self.planning = dict(
            sharing_range=sharing_range,
            cell_num_ratio=cell_num_ratio,
            cell_outplane_ratio=cell_outplane_ratio,
            cell_inplane_ratio=cell_inplane_ratio,
            spatial_partition=spatial_partition,
        )
        self.reduction, self.norm = reduction, norm
        self.temperature = 0.0
        self.plan: WarehousePlan | None = None
        self.weights = nn.ParameterList()
        self._declared: list[WarehouseLayer] = []
        self._caches: dict[int, CellCache] | None = None

    def conv2d(self, name: str, *args, **kwargs) -> WarehouseConv2d:
        """Declare a 2d convolution: a name, then the arguments of ``nn.Conv2d``."""
        return self._declare(WarehouseConv2d(self, name, *args, **kwargs))

    def conv1d(self, name: str, *args, **kwargs) -> WarehouseConv1d:
        """Declare a 1d convolution: a name, then the arguments of ``nn.Conv1d``."""
        return self._declare(WarehouseConv1d(self, name, *args, **kwargs))

    def linear(self, name: str, *args, **kwargs) -> WarehouseLinear:
        """Declare a linear layer: a name, then the arguments of ``nn.Linear``."""
        return self._declare(WarehouseLinear(self, name, *args, **kwargs))

    def _declare(self, layer: WarehouseLayer) -> WarehouseLayer:
        if self.plan is not None:
            raise RuntimeError(f"{layer.name} is declared after build()")
        self._declared.append(layer)
        return layer

    def build(self, network: nn.Module) -> WarehousePlan:
        """Plan the warehouses of all declared layers, and make their cells and attentions.

        Warehouses are numbered in the order of declaration. Layers get their cells in the order of
        the modules in the network.

        Raises:
            ValueError: a layer does not fit its warehouse, or is not in the network.
        """
        placed = {
            module: path
            for path, module in network.named_modules()
            if isinstance(module, WarehouseLayer) and module._manager[0] is self
        }
        for layer in self._declared:
            if layer not in placed:
                raise ValueError(f"{layer.name} is declared but no module of the network")
        self.plan = plan_warehouses(
            [LayerShape(m.name, m.weight_shape, path) for m, path in placed.items()],
            numbering=[layer.name for layer in self._declared],
            **self.planning,
        )
        modules = {path: module for module, path in placed.items()}
        for number, warehouse in enumerate(self.plan):
            self.weights.append(nn.Parameter(initial_cells(warehouse)))
            for layer in warehouse.layers:
                modules[layer.shape.path].build(number, warehouse, layer)
        self._declared = []
        network.register_forward_pre_hook(self._open_caches)
        network.register_forward_hook(self._close_caches, always_call=True)
        return self.plan

    def _open_caches(self, *_) -> None:
        self._caches = {}

    def _close_caches(self, *_) -> None:
        self._caches = None

    def cache(self, number: int) -> CellCache:
        """The cells of a warehouse for a layer; the same object for a whole forward pass."""
        if self._caches is None:  # a layer is called alone
            return CellCache(self.weights[number])
        if number not in self._caches:
            self._caches[number] = CellCache(self.weights[number])
        return self._caches[number]


def initial_cells(warehouse: PlannedWarehouse) -> Tensor:
    """Cells (M, co, ci, ...): a layer's own as one kernel of them all, Kaiming by fan-out."""
    cells = torch.empty(warehouse.cells, *warehouse.cell)
    co, _, *spatial = warehouse.cell
    for layer in warehouse.layers:
        fan_out = max(layer.taken, 1) * co * math.prod(spatial)
        cells[layer.first : layer.first + layer.taken].normal_(std=math.sqrt(2 / fan_out))
    return cells


def temperature_at(epoch: float, epochs: float) -> float:
    """The temperature in a training from scratch: linear from 1 to 0 over the first ``epochs``."""
    return max(0.0, 1.0 - epoch / epochs)
