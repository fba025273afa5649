"""Samples for training: repeatable ones, bad images replaced, and a check of a data set.

COCO's data set is here too, for its evaluation.
"""

from models_mm.datasets.coco import CocoDataset

__all__ = ["CocoDataset"]
