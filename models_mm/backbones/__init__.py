"""Backbones, registered in MMDetection's ``BACKBONES`` on import."""

from .base import Backbone
from .biformer import BiFormer, biformer_b, biformer_s
from .dfvt import DFvT, dfvt_b, dfvt_s, dfvt_t
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
    "DFvT",
    "RecNeXt",
    "biformer_b",
    "biformer_s",
    "dfvt_b",
    "dfvt_s",
    "dfvt_t",
    "recnext_a3",
    "recnext_a4",
    "recnext_a5",
    "recnext_m3",
    "recnext_m4",
    "recnext_m5",
]
