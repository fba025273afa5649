"""The losses of an iteration, averaged over the ranks in one reduction and read when they are used.

mmdet reduces each loss by itself and reads it at once. Each reading waits until the GPU has done
all its work, and the GPU then waits for the next. Here all losses go into one tensor, which is
reduced in one call. On a GPU nothing is read before the log, a hook, or a check asks for a value.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import ceil
from types import MethodType

import torch
import torch.distributed as dist
from mmcv.runner import LogBuffer
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from models_mm.distributed import ranks

# The tensor of the losses has a multiple of this size on every rank, so that ranks with other
# losses do not wait for each other.
SLOTS = 64
# The names of the losses are one of so many numbers, all of which float32 holds exactly.
NAMES = 2**20


class Losses(Mapping):
    """The losses of an iteration by name, still on a GPU. The first look at one reads them all.

    Args:
        names: of the losses.
        reduced: their means over the ranks, and the mean of what stands for the names.
    """

    def __init__(self, names: list[str], reduced: Tensor):
        self.names = names
        self.reduced = reduced
        self.values_read: dict[str, float] | None = None

    def __getitem__(self, name: str) -> float:
        """One of the values.

        Raises:
            RuntimeError: the ranks have different losses.
        """
        if self.values_read is None:
            *values, of_names = self.reduced[: len(self.names) + 1].tolist()
            if abs(of_names - number_of(self.names)) > 0.5:
                raise RuntimeError(
                    f"the ranks have different losses; rank {ranks.rank_and_world_size()[0]} has "
                    f"{', '.join(self.names)}"
                )
            self.values_read = dict(zip(self.names, values, strict=True))
        return self.values_read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Later:
    """A number that the log reads when it needs it."""

    def __init__(self, read: Callable[[], float]):
        self.read = read

    def __float__(self) -> float:
        return float(self.read())


class LossLog(LogBuffer):
    """mmcv's buffer of values to be logged, of which some are read when they are."""

    def update(self, values: Mapping, count: int = 1) -> None:
        if isinstance(values, Losses):
            values = {name: Later(partial(values.__getitem__, name)) for name in values}
        super().update(values, count)

    def average(self, n: int = 0) -> None:
        for history in self.val_history.values():
            history[-n:] = map(float, history[-n:])
        super().average(n)


def number_of(names: list[str]) -> int:
    """A number that stands for the names of losses in their order."""
    return zlib.crc32("\n".join(names).encode()) % NAMES


def parse_losses(model: nn.Module, losses: dict) -> tuple[Tensor, dict]:
    """The sum of the losses, and all of them for the log; what mmdet's ``_parse_losses`` returns.

    Raises:
        TypeError: a loss is neither a tensor nor a list of tensors.
    """
    means = dict(mean_losses(losses))
    loss = sum(value for name, value in means.items() if "loss" in name)
    means["loss"] = loss
    dtype = torch.promote_types(loss.dtype, torch.float32)
    values = torch.stack([value.detach().to(dtype) for value in means.values()])
    reduced = values.new_zeros(ceil((len(means) + 1) / SLOTS) * SLOTS)
    reduced[: len(means)] = values
    reduced[len(means)] = number_of(list(means))
    world_size = ranks.rank_and_world_size()[1]
    if world_size > 1:
        dist.all_reduce(reduced.div_(world_size))
    found = Losses(list(means), reduced)
    return loss, found if reduced.is_cuda else dict(found)


def mean_losses(losses: dict) -> Iterator[tuple[str, Tensor]]:
    """Each loss as one number."""
    for name, value in losses.items():
        if isinstance(value, Tensor):
            yield name, value.mean()
        elif isinstance(value, list):
            yield name, sum(part.mean() for part in value)
        else:
            raise TypeError(f"{name} is not a tensor or list of tensors")


def reduce_at_once(model: nn.Module) -> None:
    """Let a detector reduce its losses in one call, unless it has its own way to."""
    if getattr(type(model), "_parse_losses", None) is BaseDetector._parse_losses:
        model._parse_losses = MethodType(parse_losses, model)
