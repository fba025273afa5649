"""Backbones, registered in MMDetection's ``BACKBONES`` on import."""

from .base import Backbone
from .biformer import BiFormer, biformer_b, biformer_s
from .recnext import (
    RecNeXt,
    recnext_a3,
    recnext_a4,
    recnext_a5,
    recnext_m3,
    recnext_m4,
    recnext_m5,
)

__all__ = [
    "Backbone",
    "BiFormer",
    "RecNeXt",
    "biformer_b",
    "biformer_s",
    "recnext_a3",
    "recnext_a4",
    "recnext_a5",
    "recnext_m3",
    "recnext_m4",
    "recnext_m5",
]
