"""Warehouses: their plans against published tables, their layers against the equations."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models_mm.layers.warehouse import WarehouseManager, own_cells, temperature_at
from models_mm.layers.warehouse_plan import LayerShape, plan_warehouses, warehouse_name

TOLERANCE = 1e-12


def shapes(*layers):
    return [LayerShape(name, weight, path=f"at.{i}") for i, (name, weight) in enumerate(layers)]


# --- planning


@pytest.mark.parametrize(
    ("layer", "sharing", "expected"),
    [
        ("stage2_layer3_conv1", ("layer", "conv"), "stage2_layer_conv"),
        ("stage2_layer3_pwconv1", ("layer", "pwconv"), "stage2_layer_pwconv"),
        ("stage2_layer3_dwconv0", ("layer", "pwconv"), "stage2_layer_dwconv0"),
        ("stage0_layerds_conv0", ("layer", "pwconv"), "stage0_layer_conv0"),
        ("stage1_layer0", ("layer", "l"), "stage1_l"),
    ],
)
def test_names_of_warehouses(layer, sharing, expected):
    assert warehouse_name(layer, sharing) == expected


def test_a_string_is_one_entry():
    layers = shapes(
        ("stage1_layer0_pwconv0", (8, 4, 1, 1)), ("stage1_layer1_pwconv1", (8, 4, 1, 1))
    )
    plans = [plan_warehouses(layers, sharing) for sharing in ("layer", ("layer",))]
    assert plans[0] == plans[1] and len(plans[0]) == 2


def test_plan_of_two_layers():
    layers = shapes(("stage0_layer0_conv0", (32, 16, 3, 3)), ("stage0_layer1_conv0", (64, 8, 1, 1)))
    (warehouse,) = plan_warehouses(layers, ("layer",), cell_num_ratio=2)
    assert warehouse.cell == (32, 8, 1, 1) and warehouse.cells == 2 * (9 * 2 + 2)
    first, second = warehouse.layers
    assert (first.grid, first.first, first.taken) == ((9, 1, 2), 0, 36)
    assert (second.grid, second.first, second.taken) == ((1, 2, 1), 36, 4)
    assert first.own == tuple(range(0, 36, 2)) and second.own == (36, 38)


def test_half_a_cell_per_mixture():
    (warehouse,) = plan_warehouses(shapes(("conv", (8, 8, 2, 2))), (), cell_num_ratio=0.5)
    # two mixtures take turns: 0 mod 2 == 0 div 2, then 3; the others have none, position M
    assert warehouse.cells == 2 and warehouse.layers[0].own == (0, 2, 2, 1)
    assert own_cells((0, 2, 2, 1), 2, torch.device("cpu")).tolist() == [
        *([1, 0], [0, 0], [0, 0], [0, 1])
    ]


@pytest.mark.parametrize("ratio", [1, 4, 0.5])
def test_all_cells_are_some_layers_own(ratio):
    layers = shapes(("a_conv0", (8, 4, 4)), ("a_conv1", (16, 4, 2)), ("a_conv2", (8, 12, 8)))
    (warehouse,) = plan_warehouses(layers, ("conv",), cell_num_ratio=ratio)
    own = [cell for layer in warehouse.layers for cell in layer.own if cell < warehouse.cells]
    assert own == sorted(set(own))
    ends = [layer.first + layer.taken for layer in warehouse.layers]
    assert ends[-1] == warehouse.cells and ends[:-1] == [la.first for la in warehouse.layers[1:]]


@pytest.mark.parametrize(
    ("layers", "settings", "message"),
    [
        ([("a", (8, 8, 3, 3)), ("a", (8, 8, 3))], {}, r"at\.1 has a kernel of 3 dimensions"),
        (
            [("a", (8, 8, 3, 3)), ("a", (8, 8, 1, 1))],
            dict(spatial_partition=False),
            r"at\.1 has a kernel of size \(1, 1\), at\.0 of \(3, 3\)",
        ),
        ([("a", (8, 8)), ("a", (12, 8))], dict(cell_outplane_ratio=2), r"at\.1 has 12 output"),
        ([("a", (8, 8, 3, 3))], dict(cell_num_ratio=0.3), r"at\.0 does not fit into warehouse a"),
        ([("a", (8, 8, 3, 3))], dict(cell_num_ratio=1.5), r"after the last layer, at\.0"),
        ([("a", (8, 8))], dict(cell_num_ratio=(1, 2)), "cell_num_ratio has 2 values for 1"),
    ],
)
def test_what_does_not_fit_is_named(layers, settings, message):
    with pytest.raises(ValueError, match=message):
        plan_warehouses(shapes(*layers), (), **settings)


def test_a_plan_prints_as_a_table():
    layers = shapes(("s_conv0", (8, 4, 3, 3)), ("s_conv1", (16, 4, 1, 1)), ("t", (8, 8)))
    lines = str(plan_warehouses(layers, ("conv",))).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "s_conv", "11", "8x4x1x1", "at.0", "9", "@", "0"],
        ["at.1", "2", "@", "9"],
        ["1", "t", "1", "8x8", "at.2", "1", "@", "0"],
    ]


# --- layers against the equations


def equation(layer, x):
    """Kernel by kernel, entry by entry, image by image."""
    cells = layer._manager[0].weights[layer.warehouse]
    count, co, ci = cells.shape[:3]
    out, inputs, *size = layer.weight_shape
    attention, results = layer.attention, []
    axes = tuple(range(1, x.dim() - 1)) if isinstance(layer, LINEAR) else tuple(range(2, x.dim()))
    pooled = x.mean(axes) if axes else x
    u = attention.fc2(F.relu(attention.norm1(attention.fc1(pooled))))
    for image, row in zip(x, u.view(len(x), -1, count + 1), strict=True):
        go, gi = out // co, inputs // ci
        kernel = torch.zeros(out, inputs, math.prod(size), dtype=x.dtype)
        for j, values in enumerate(row):
            factors = values / (values.abs().sum() + 1e-3)
            block = sum(factors[k] * cells[k] for k in range(count)).reshape(co, ci, -1)
            q, o, c = j // (go * gi), j // gi % go, j % gi
            positions = slice(q, q + 1) if len(row) > go * gi else slice(None)
            kernel[o * co : (o + 1) * co, c * ci : (c + 1) * ci, positions] = block
        kernel = kernel.view(layer.weight_shape)
        if isinstance(layer, LINEAR):
            results.append(F.linear(image, kernel, layer.bias))
        else:
            convolve = {3: F.conv1d, 4: F.conv2d}[x.dim()]
            y = convolve(
                image[None], kernel, layer.bias, layer.stride, layer.padding, 1, layer.groups
            )
            results.append(y[0])
    return torch.stack(results)


LINEAR = type(WarehouseManager(()).linear("x", 1, 1))


def built(kind, *args, seed=0, norm="BN", **kwargs):
    """A network of one layer, with random cells, biases and statistics; its planning settings."""
    torch.manual_seed(seed)
    planning = {k: kwargs.pop(k) for k in list(kwargs) if k.startswith(("cell", "spatial"))}
    network = nn.Module()
    network.warehouses = WarehouseManager((), norm=norm, **planning)
    network.layer = getattr(network.warehouses, kind)("layer", *args, **kwargs)
    network.warehouses.build(network)
    network.forward = network.layer.forward
    network.double()
    for entry in network.state_dict().values():
        if entry.is_floating_point():
            entry.copy_(
                torch.rand_like(entry) + 0.1 if (entry == 1).all() else torch.randn_like(entry)
            )
    return network


CASES = {
    "1x1": (
        "conv2d",
        (8, 12, 1),
        dict(cell_outplane_ratio=0.5, cell_inplane_ratio=0.25),
        (8, 5, 7),
    ),
    "1x1 stride": ("conv2d", (8, 8, 1, 2), dict(cell_num_ratio=4, bias=True), (8, 6, 5)),
    "3x3": (
        *("conv2d", (4, 8, 3, 2, 1)),
        *(dict(cell_outplane_ratio=0.5, cell_inplane_ratio=0.5, norm="LN"), (4, 6, 5)),
    ),
    "3x3 whole": (
        *("conv2d", (4, 8, 3, 1, 1)),
        *(dict(spatial_partition=False, cell_outplane_ratio=0.5), (4, 6, 5)),
    ),
    "depthwise": (
        *("conv2d", (6, 6, 3, 1, 1)),
        *(dict(groups=6, bias=True, cell_outplane_ratio=0.34), (6, 5, 5)),
    ),
    "grouped": ("conv2d", (8, 4, (3, 1)), dict(groups=2, cell_inplane_ratio=0.5), (8, 5, 5)),
    "1d": ("conv1d", (4, 6, 3, 2, 1), dict(cell_outplane_ratio=0.5, bias=True), (4, 9)),
    "linear": ("linear", (6, 8), dict(cell_outplane_ratio=0.5, cell_inplane_ratio=0.5), (6,)),
    "linear of tokens": ("linear", (6, 8), dict(cell_num_ratio=2, norm="LN"), (5, 3, 6)),
}


def results(function, network, x):
    x = x.clone().requires_grad_()
    y = function(x)
    loss = (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum()
    return [y, *torch.autograd.grad(loss, [x, *network.parameters()])]


def assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a - e).abs().max() <= TOLERANCE * e.abs().max().clamp(min=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_layer_is_its_equation(case, batch, layout):
    kind, args, settings, size = CASES[case]
    network = built(kind, *args, **settings).eval()
    x = torch.randn(batch, *size, dtype=torch.float64)
    if layout == torch.channels_last:
        if x.dim() != 4:
            pytest.skip("of maps only")
        x = x.contiguous(memory_format=layout)
    expected = results(lambda x: equation(network.layer, x), network, x)
    assert_close(results(network, network, x), expected)
    with torch.no_grad():
        assert_close([network(x)], expected[:1])
    # called by itself, without the network's forward
    assert_close(results(network.layer, network, x), expected)


class Two(nn.Module):
    """Two layers of one warehouse."""

    def __init__(self):
        super().__init__()
        self.warehouses = WarehouseManager(("conv",))
        self.first = self.warehouses.conv2d("conv0", 4, 8, 3, padding=1)
        self.second = self.warehouses.conv2d("conv1", 8, 4, 1)
        self.warehouses.build(self)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


@pytest.fixture
def two():
    torch.manual_seed(0)
    return Two().double().eval()


X = torch.linspace(-1, 1, 2 * 4 * 5 * 5, dtype=torch.float64).sin().view(2, 4, 5, 5)


def test_layers_share_gradients_of_their_cells(two):
    def direct(x):
        return equation(two.second, F.relu(equation(two.first, x)))

    assert_close(results(two, two, X), results(direct, two, X))


def test_gradients_of_several_passes_add_up(two):
    (cells,) = two.warehouses.weights
    outs = [two(x) for x in (X, 2 * X)]
    for out in outs:
        out.sum().backward()
    separate = cells.grad.clone()
    cells.grad = None
    sum(two(x).sum() for x in (X, 2 * X)).backward()
    assert_close([cells.grad], [separate])


def test_fixed_cells_and_fixed_attentions(two):
    expected = results(two, two, X)
    two.warehouses.weights.requires_grad_(False)
    two(X).square().sum().backward()
    assert (
        two.warehouses.weights[0].grad is None and two.first.attention.fc2.weight.grad is not None
    )
    two.requires_grad_(False)
    two.warehouses.weights.requires_grad_(True)
    assert_close([two(X)], expected[:1])
    two(X).square().sum().backward()
    assert two.warehouses.weights[0].grad.any()


def test_copies_are_independent(two):
    other = copy.deepcopy(two)
    other(X).sum().backward()
    assert two.warehouses.weights[0].grad is None
    assert other.first._manager[0] is other.warehouses
    with torch.no_grad():
        other.warehouses.weights[0].zero_()
        assert other(X).abs().max() == 0 and two(X).abs().max() > 0


def test_cells_are_in_the_state_dict_once(two):
    keys = [key for key in two.state_dict() if "weights" in key]
    assert keys == ["warehouses.weights.0"]


def test_temperature_of_one_leaves_the_own_cells(two):
    two.warehouses.temperature = 1.0
    kernel = two.second.kernels(torch.randn(2, 8, dtype=torch.float64))
    layer = two.warehouses.plan[0].layers[1]
    own = two.warehouses.weights[0][layer.first : layer.first + layer.taken]
    assert layer.grid == (1, 1, 2)
    expected = torch.cat(list(own), 1).view(4, 8, 1, 1)
    assert torch.equal(kernel[0], expected) and torch.equal(kernel[1], expected)
    whole = {}
    for temperature in (0.0, 0.3, 1.0):
        two.warehouses.temperature = temperature
        whole[temperature] = two.second.kernels(torch.ones(2, 8, dtype=torch.float64))
    assert_close([whole[0.3]], [0.7 * whole[0.0] + 0.3 * whole[1.0]])


def test_temperature_falls_linearly():
    assert [temperature_at(epoch, 20) for epoch in (0, 5, 20, 30)] == [1.0, 0.75, 0.0, 0.0]


def test_what_is_declared_must_be_in_the_network():
    network = nn.Module()
    network.warehouses = WarehouseManager(())
    network.warehouses.conv2d("lost", 4, 4, 1)
    with pytest.raises(ValueError, match="lost is declared but no module of the network"):
        network.warehouses.build(network)


def test_a_layer_before_its_building_and_one_after_it(two):
    manager = WarehouseManager(())
    with pytest.raises(RuntimeError, match=re.escape("call the manager's build()")):
        manager.conv2d("early", 4, 4, 1)(torch.ones(1, 4, 2, 2))
    with pytest.raises(RuntimeError, match="late is declared after build"):
        two.warehouses.conv2d("late", 4, 4, 1)


def test_the_reduced_attention_is_not_there():
    with pytest.raises(NotImplementedError, match="nonlocal_basis_ratio"):
        WarehouseManager((), nonlocal_basis_ratio=0.5)


def test_initial_cells_have_the_variance_of_their_layer():
    torch.manual_seed(0)
    network = nn.Module()
    network.warehouses = WarehouseManager(("conv",))
    network.a = network.warehouses.conv2d("conv0", 64, 64, 3)
    network.b = network.warehouses.conv2d("conv1", 64, 64, 1)
    network.warehouses.build(network)
    cells = network.warehouses.weights[0]
    for own, fan_out in ((cells[:9], 9 * 64), (cells[9:], 64)):
        assert own.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


# --- a network of one's own, as in docs/core.md


class Small(nn.Module):
    """The ten lines of docs/core.md."""

    def __init__(self):
        super().__init__()
        self.warehouses = WarehouseManager(sharing_range=("layer", "conv"))
        conv2d = self.warehouses.conv2d
        self.conv1 = conv2d("stage0_layer0_conv0", 3, 16, 3, padding=1)
        self.conv2 = conv2d("stage0_layer0_conv1", 16, 16, 3, padding=1)
        self.head = self.warehouses.linear("head", 16, 2)
        self.warehouses.build(self)

    def forward(self, x):
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def test_a_traced_network_is_the_same():
    """Under torch.compile the products are plain ones."""
    torch.manual_seed(0)
    network, x = Small().double(), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    network.warehouses.temperature = 0.5
    expected = network(x)
    wanted = torch.autograd.grad(expected.square().sum(), list(network.parameters()))
    network.compile(backend="eager", fullgraph=True)
    y = network(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(y.square().sum(), list(network.parameters()))
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-12)


def test_a_network_of_ones_own_learns():
    """Bright images from dark ones."""
    torch.manual_seed(0)
    network = Small()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    losses = []
    for step in range(30):
        network.warehouses.temperature = temperature_at(step, 10)
        labels = torch.arange(8) % 2
        images = torch.randn(8, 3, 12, 12) + labels.view(-1, 1, 1, 1)
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
