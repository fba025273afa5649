"""Check the training state in a checkpoint before a training resumes from it.

A file in a work dir may come from anywhere. Wrong fields are named, and code that does not check
its values (random generators, the loops of the optimizer) never sees them.
"""

import os
from collections.abc import Callable
from typing import NoReturn

import torch

from models_mm.errors import CheckpointError

COUNT = 1 << 40  # larger than the epochs or iterations of any training


def check_meta(checkpoint, path: str | os.PathLike) -> None:
    """Check the ``meta`` of a checkpoint.

    Raises:
        CheckpointError: it is missing, or no training writes such a field.
    """
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict):
        refuse(path, "meta", "a dictionary")
    for key in ("epoch", "iter"):
        if key in meta or "optimizer" in checkpoint:
            need(path, f"meta.{key}", meta.get(key), is_count, "a whole number from 0")
    if meta.get("seed") is not None:
        need(path, "meta.seed", meta["seed"], is_count, "a whole number from 0")
    for key in ("hook_msgs", "fp16"):
        if meta.get(key) is not None:
            need(path, f"meta.{key}", meta[key], is_names, "a dictionary of names")


def check_state(checkpoint: dict, path: str | os.PathLike) -> None:
    """Check everything that a training reads from a checkpoint besides the weights.

    Raises:
        CheckpointError: no training writes such a field.
    """
    check_meta(checkpoint, path)
    progress = checkpoint.get("progress")
    if progress is None:  # checkpoints of mmcv have none
        return
    need(path, "progress", progress, is_names, "a dictionary of names")
    need(path, "progress.inner_iter", progress.get("inner_iter"), is_count, "a whole number from 0")
    if "world_size" in progress:
        world = progress["world_size"]
        need(path, "progress.world_size", world, is_positive, "a whole number from 1")
    need(path, "progress.unevaluated", progress.get("unevaluated"), is_flag, "True or False")
    gradients = progress.get("gradients") or {}
    need(path, "progress.gradients", gradients, is_tensors, "a dictionary of tensors")
    for key in ("random_states", "attributes"):
        values = progress.get(key) or []
        need(path, f"progress.{key}", values, is_list_of_names, "a list of dictionaries")
    for rank, state in enumerate(progress.get("random_states") or []):
        check_random_state(state, f"progress.random_states[{rank}]", path)


def check_random_state(state: dict, name: str, path: str | os.PathLike) -> None:
    """Check the states of the random generators; NumPy's generator does not check its own."""
    python, numpy = state.get("python"), state.get("numpy")
    if not (
        isinstance(python, (list, tuple))
        and len(python) == 3
        and python[0] == 3
        and is_words(python[1], 625)
        and int(python[1][-1]) <= 624
        and (python[2] is None or isinstance(python[2], float))
    ):
        refuse(path, f"{name}.python", "a state of Python's random generator")
    if not (
        isinstance(numpy, (list, tuple))
        and len(numpy) == 5
        and numpy[0] == "MT19937"
        and is_words(numpy[1], 624)
        and is_count(numpy[2])
        and numpy[2] <= 624
        and numpy[3] in (0, 1)
        and isinstance(numpy[4], float)
    ):
        refuse(path, f"{name}.numpy", "a state of NumPy's random generator")
    for key in ("torch", *(["cuda"] if "cuda" in state else [])):
        value = state.get(key)
        if not isinstance(value, torch.Tensor) or value.dtype != torch.uint8 or value.dim() != 1:
            refuse(path, f"{name}.{key}", "a state of torch's random generator")
    try:
        torch.Generator().set_state(state["torch"])
    except (RuntimeError, TypeError):
        refuse(path, f"{name}.torch", "a state of torch's random generator")


def check_optimizer(optimizer: torch.optim.Optimizer, state, path: str | os.PathLike) -> None:
    """Check the state of an optimizer, and whether it fits the parameters of this optimizer.

    Raises:
        CheckpointError: it is damaged or does not fit.
    """
    need(path, "optimizer", state, is_names, "a dictionary of names")
    groups, values = state.get("param_groups"), state.get("state")
    need(path, "optimizer.param_groups", groups, is_list_of_names, "a list of dictionaries")
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        refuse(path, "optimizer.state", "a dictionary of dictionaries")
    numbers = [group.get("params") for group in groups]
    ours = [group["params"] for group in optimizer.param_groups]
    if any(not isinstance(n, (list, tuple)) for n in numbers) or [*map(len, numbers)] != [
        *map(len, ours)
    ]:
        refuse(path, "optimizer.param_groups", "the groups of this config's optimizer")
    for number, parameter in zip(sum(map(list, numbers), []), sum(ours, []), strict=True):
        if not is_count(number):
            refuse(path, "optimizer.param_groups", "groups of numbered parameters")
        for name, value in values.get(number, {}).items():
            if isinstance(value, torch.Tensor) and value.shape not in (parameter.shape, ()):
                shape = tuple(parameter.shape)
                refuse(path, f"optimizer.state.{number}.{name}", f"a tensor of the shape {shape}")


def refuse(path: str | os.PathLike, field: str, wanted: str) -> NoReturn:
    """Raise an error that names a wrong field."""
    raise CheckpointError(f"{path}: {field} is not {wanted}, so no training can resume from it")


def need(path, field: str, value, holds: Callable[[object], bool], wanted: str) -> None:
    """:func:`refuse` a field if a condition is false."""
    if not holds(value):
        refuse(path, field, wanted)


def is_count(value) -> bool:
    return type(value) is int and 0 <= value < COUNT


def is_positive(value) -> bool:
    return is_count(value) and value > 0


def is_flag(value) -> bool:
    return type(value) is bool


def is_names(value) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def is_list_of_names(value) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_names, value))


def is_tensors(value) -> bool:
    return is_names(value) and all(isinstance(item, torch.Tensor) for item in value.values())


def is_words(value, length: int) -> bool:
    """Whether a value is a tensor of this many unsigned 32-bit integers."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype == torch.int64
        and value.shape == (length,)
        and bool(((value >= 0) & (value < 1 << 32)).all())
    )
