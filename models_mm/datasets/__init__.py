"""Samples for training: repeatable ones, bad images replaced, and a check of a data set.

COCO's data set is here too, for its evaluation.
"""

from models_mm.datasets.coco import CocoDataset
from models_mm.datasets.images import LoadImageFromFile

__all__ = ["CocoDataset", "LoadImageFromFile"]
