"""Resuming by iterations without a GPU: mmcv's IterBasedRunner asks for one even where none is."""

import torch
from mmcv.runner import IterBasedRunner

_resume = IterBasedRunner.resume


def resume(self, checkpoint: str, resume_optimizer: bool = True, map_location="default") -> None:
    """As mmcv's, to the CPU when that is all there is."""
    if map_location == "default" and not torch.cuda.is_available():
        map_location = "cpu"
    _resume(self, checkpoint, resume_optimizer, map_location)


def apply() -> None:
    IterBasedRunner.resume = resume
