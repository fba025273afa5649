"""Plan the warehouses by layer names: which layers mix their kernels from which cells. No tensors.

Paper: Li, Yao, "KernelWarehouse: Rethinking the Design of Dynamic Convolution", ICML 2024
(arXiv 2406.07879), section 3. The kernels of the layers that share a warehouse are cut into blocks
of the same size, the cell. The warehouse has ``ratio`` learned cells per block.

Legend: m blocks (mixtures) of a layer, M cells of a warehouse, co, ci output and input channels of
a cell, S, Go, Gi blocks of a layer along its kernel positions, output and input channels (m is
their product).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class LayerShape(NamedTuple):
    """A layer that gets its kernel from a warehouse.

    Attributes:
        name: tokens joined by ``_``, e.g. ``stage2_layer3_conv1``; they determine the warehouse.
        weight: shape of its kernel, (out, in / groups, *kernel size).
        path: the place of the layer in its network, for tables and messages.
    """

    name: str
    weight: tuple[int, ...]
    path: str = ""

    def __str__(self) -> str:
        return self.path or self.name


class PlannedLayer(NamedTuple):
    """The cells that a layer gets.

    Attributes:
        shape: the layer.
        grid: (S, Go, Gi).
        first: its first cell.
        taken: number of its own cells, from the first.
        own: the cell with which each mixture starts; M (no cell) for mixtures without one.
    """

    shape: LayerShape
    grid: tuple[int, int, int]
    first: int
    taken: int
    own: tuple[int, ...]

    @property
    def mixtures(self) -> int:
        return math.prod(self.grid)


class PlannedWarehouse(NamedTuple):
    """A warehouse and its layers.

    Attributes:
        name: the common part of the names of its layers.
        cells: M.
        cell: shape of a cell, (co, ci, *spatial).
        layers: its layers, in the order of their own cells.
    """

    name: str
    cells: int
    cell: tuple[int, ...]
    layers: tuple[PlannedLayer, ...]


class WarehousePlan(tuple[PlannedWarehouse, ...]):
    """The warehouses by number; ``print`` shows them as a table."""

    def __str__(self) -> str:
        rows = [("N", "warehouse", "cells", "cell", "layer", "mixtures @ first cell")]
        for number, warehouse in enumerate(self):
            cell = "x".join(map(str, warehouse.cell))
            head = (str(number), warehouse.name, str(warehouse.cells), cell)
            for layer in warehouse.layers:
                rows.append((*head, str(layer.shape), f"{layer.mixtures} @ {layer.first}"))
                head = ("",) * 4
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(f"{c:{w}}" for c, w in zip(r, widths, strict=True)) for r in rows)
        return "\n".join(line.rstrip() for line in lines)


def warehouse_name(layer: str, sharing_range: Sequence[str]) -> str:
    """The warehouse of a layer, derived from the name of the layer.

    A token of the layer's name that starts with an entry of the range becomes that entry:
    ``stage2_layer3_conv1`` is ``stage2_layer_conv`` in the range ``('layer', 'conv')``.
    """
    tokens = layer.split("_")
    for i, token in enumerate(tokens):
        for entry in sharing_range:
            if token.startswith(entry):
                token = entry
        tokens[i] = token
    return "_".join(tokens)


def plan_warehouses(
    layers: Sequence[LayerShape],
    sharing_range: Sequence[str] | str,
    cell_num_ratio: float | Sequence[float] = 1.0,
    cell_outplane_ratio: float | Sequence[float] = 1.0,
    cell_inplane_ratio: float | Sequence[float] = 1.0,
    spatial_partition: bool | Sequence[bool] = True,
    numbering: Sequence[str] | None = None,
) -> WarehousePlan:
    """Assign a warehouse and own cells to every layer.

    Args:
        layers: in the order in which they take their own cells.
        sharing_range: entries that tokens of names are shortened to; a string is one entry.
        cell_num_ratio: cells per block. This and the next three may be lists, one value per
            warehouse.
        cell_outplane_ratio: co as a fraction of the greatest common divisor of the output channels.
        cell_inplane_ratio: ci as a fraction of the greatest common divisor of the input channels.
        spatial_partition: also cut kernels into their positions.
        numbering: layer names in the order that numbers the warehouses (default: ``layers``).

    Raises:
        ValueError: a layer does not fit the others of its warehouse, or is larger than its cells;
            or a list of settings has another length than the number of warehouses.
    """
    if isinstance(sharing_range, str):
        sharing_range = (sharing_range,)
    names = numbering if numbering is not None else [layer.name for layer in layers]
    members = {warehouse_name(name, sharing_range): [] for name in names}
    for layer in layers:
        members.setdefault(warehouse_name(layer.name, sharing_range), []).append(layer)
    settings = zip(
        _per_warehouse("cell_num_ratio", cell_num_ratio, members),
        _per_warehouse("cell_outplane_ratio", cell_outplane_ratio, members),
        _per_warehouse("cell_inplane_ratio", cell_inplane_ratio, members),
        _per_warehouse("spatial_partition", spatial_partition, members),
        strict=True,
    )
    return WarehousePlan(
        _plan_one(name, shapes, *setting)
        for (name, shapes), setting in zip(members.items(), settings, strict=True)
    )


def _per_warehouse(key: str, value, members: dict) -> Sequence:
    if not isinstance(value, Sequence):
        return [value] * len(members)
    if len(value) != len(members):
        raise ValueError(
            f"{key} has {len(value)} values for {len(members)} warehouses ({', '.join(members)})"
        )
    return value


def _plan_one(
    name: str,
    shapes: list[LayerShape],
    ratio: float,
    out_ratio: float,
    in_ratio: float,
    spatial_partition: bool,
) -> PlannedWarehouse:
    first = shapes[0]
    for shape in shapes:
        if len(shape.weight) != len(first.weight):
            raise ValueError(
                f"{shape} has a kernel of {len(shape.weight)} dimensions, {first} of "
                f"{len(first.weight)}: they cannot share warehouse {name}; give it another name"
            )
        if not spatial_partition and shape.weight[2:] != first.weight[2:]:
            raise ValueError(
                f"{shape} has a kernel of size {shape.weight[2:]}, {first} of "
                f"{first.weight[2:]}: without spatial partition they cannot share warehouse {name}"
            )
    co = max(int(math.gcd(*(shape.weight[0] for shape in shapes)) * out_ratio), 1)
    ci = max(int(math.gcd(*(shape.weight[1] for shape in shapes)) * in_ratio), 1)
    spatial = tuple(1 if spatial_partition else size for size in first.weight[2:])
    grids = [_grid(shape, co, ci, spatial_partition) for shape in shapes]
    cells = max(int(sum(map(math.prod, grids)) * ratio), 1)
    layers, start = [], 0
    for shape, grid in zip(shapes, grids, strict=True):
        own, end = _own_cells(math.prod(grid), ratio, start, cells)
        if end > cells:
            raise ValueError(
                f"{shape} does not fit into warehouse {name}: its own cells would be {start} to "
                f"{end - 1} of {cells}; choose another cell_num_ratio than {ratio}"
            )
        layers.append(PlannedLayer(shape, grid, start, end - start, own))
        start = end
    if start != cells:
        raise ValueError(
            f"warehouse {name} has {cells} cells, of which {cells - start} are no layer's own "
            f"after the last layer, {shapes[-1]}; choose another cell_num_ratio than {ratio}"
        )
    return PlannedWarehouse(name, cells, (co, ci, *spatial), tuple(layers))


def _grid(shape: LayerShape, co: int, ci: int, spatial_partition: bool) -> tuple[int, int, int]:
    out, inputs, *kernel = shape.weight
    if out % co or inputs % ci:
        raise ValueError(
            f"{shape} has {out} output and {inputs} input channels, no multiples of its "
            f"warehouse's cell of {co} and {ci}; choose other cell ratios"
        )
    return math.prod(kernel) if spatial_partition else 1, out // co, inputs // ci


def _own_cells(mixtures: int, ratio: float, start: int, none: int) -> tuple[tuple[int, ...], int]:
    """The own cell of each mixture (``none`` for those without), and the first cell after them."""
    if ratio >= 1:
        step = int(ratio)
        return tuple(start + step * j for j in range(mixtures)), start + step * mixtures
    own, every = [], int(1 / ratio)
    for j in range(mixtures):
        if j % every == (j // every) % every:
            own.append(start)
            start += 1
        else:
            own.append(none)
    return tuple(own), start
