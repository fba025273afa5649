"""Read, check, load, convert and write checkpoints; all other code uses this package for it."""

from models_mm.checkpoints.files import read_checkpoint, write_checkpoint
from models_mm.checkpoints.loading import (
    load_checkpoint,
    load_for_finetuning,
    load_pretrained,
)

__all__ = [
    "load_checkpoint",
    "load_for_finetuning",
    "load_pretrained",
    "read_checkpoint",
    "write_checkpoint",
]
