"""Backbones, registered in MMDetection's ``BACKBONES`` on import."""

from .base import Backbone
from .biformer import BiFormer, biformer_b, biformer_s
from .dfvt import DFvT, dfvt_b, dfvt_s, dfvt_t
from .mpvit import MPViT, mpvit_base, mpvit_small, mpvit_tiny, mpvit_xsmall
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
    "MPViT",
    "RecNeXt",
    "biformer_b",
    "biformer_s",
    "dfvt_b",
    "dfvt_s",
    "dfvt_t",
    "mpvit_base",
    "mpvit_small",
    "mpvit_tiny",
    "mpvit_xsmall",
    "recnext_a3",
    "recnext_a4",
    "recnext_a5",
    "recnext_m3",
    "recnext_m4",
    "recnext_m5",
]
