"""A hook that records the loss and the gradients of every iteration, each rank its own."""

import hashlib
import json
import os
from pathlib import Path

import torch
from mmcv.runner import HOOKS, Hook

import models_mm  # noqa: F401  (before mmcv's hooks, which do not import without it)


def digest(value) -> str:
    """A hash of tensors, texts and numbers in containers."""
    sha = hashlib.sha256()

    def add(item):
        if isinstance(item, torch.Tensor):
            item = item.detach().cpu().contiguous()
            sha.update(f"{item.dtype} {tuple(item.shape)}".encode())
            sha.update(item.flatten().view(torch.uint8).numpy().tobytes() if item.numel() else b"")
        elif isinstance(item, dict):
            for key in sorted(item, key=str):
                sha.update(f"key {key}".encode())
                add(item[key])
        elif isinstance(item, (list, tuple)):
            sha.update(f"list {len(item)}".encode())
            for part in item:
                add(part)
        else:
            sha.update(repr(item).encode())

    add(value)
    return sha.hexdigest()[:16]


@HOOKS.register_module()
class DigestHook(Hook):
    """Write ``rank_N.json`` into the folder that ``DIGESTS`` names."""

    def __init__(self):
        self.losses, self.gradients = [], []

    def after_train_iter(self, runner):
        model = getattr(runner.model, "module", runner.model)
        self.losses.append(float(runner.outputs["loss"]).hex())
        self.gradients.append(
            digest({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        )

    def after_run(self, runner):
        out = Path(os.environ["DIGESTS"]) / f"rank_{runner.rank}.json"
        out.write_text(json.dumps({"losses": self.losses, "gradients": self.gradients}))


@HOOKS.register_module()
class SpoilBatchHook(Hook):
    """Make the images of some iterations NaN on rank 1, so that their loss is not finite.

    Args:
        iterations: the numbers of these iterations, from 0 on.
    """

    def __init__(self, iterations: list[int]):
        self.iterations = iterations

    def before_train_iter(self, runner):
        if runner.iter in self.iterations and runner.rank == 1:
            for images in runner.data_batch["img"].data:
                images.fill_(float("nan"))
