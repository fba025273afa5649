"""Reading, checking and loading weights: the one way in for every checkpoint."""

from models_mm.checkpoints.families import family_of
from models_mm.checkpoints.family import Family
from models_mm.checkpoints.files import read_checkpoint, write_checkpoint
from models_mm.checkpoints.loading import (
    PretrainedInit,
    load_checkpoint,
    load_for_finetuning,
    load_pretrained,
)

__all__ = [
    "Family",
    "PretrainedInit",
    "family_of",
    "load_checkpoint",
    "load_for_finetuning",
    "load_pretrained",
    "read_checkpoint",
    "write_checkpoint",
]
