"""Backbones, registered in MMDetection's ``BACKBONES`` on import."""

from .base import Backbone
from .biformer import BiFormer, biformer_b, biformer_s
from .convnext import ConvNeXt, KW_ConvNeXt, convnext_t, kw1x_convnext_t
from .dfvt import DFvT, dfvt_b, dfvt_s, dfvt_t
from .kw_mobilenetv2 import KW_MobileNetV2, kw1x_mobilenetv2, kw4x_mobilenetv2
from .kw_resnet import KW_ResNet, kw1x_resnet50, kw4x_resnet50
from .mobilenetv2 import MobileNetV2
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
    "ConvNeXt",
    "DFvT",
    "MPViT",
    "MobileNetV2",
    "KW_ConvNeXt",
    "KW_MobileNetV2",
    "KW_ResNet",
    "RecNeXt",
    "biformer_b",
    "biformer_s",
    "convnext_t",
    "dfvt_b",
    "dfvt_s",
    "dfvt_t",
    "mpvit_base",
    "mpvit_small",
    "mpvit_tiny",
    "mpvit_xsmall",
    "kw1x_convnext_t",
    "kw1x_mobilenetv2",
    "kw1x_resnet50",
    "kw4x_mobilenetv2",
    "kw4x_resnet50",
    "recnext_a3",
    "recnext_a4",
    "recnext_a5",
    "recnext_m3",
    "recnext_m4",
    "recnext_m5",
]
