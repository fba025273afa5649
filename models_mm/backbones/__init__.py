"""The backbones in plain PyTorch: one file per family, each readable alone.

``REGISTRY`` has every class by the name that configs use, ``VARIANTS`` the names of whole models. A
new family is a file here and its name in the line below.
"""

from . import biformer, convnext, dfvt, kw_mobilenetv2, kw_resnet, mpvit, recnext  # noqa: F401
from .base import REGISTRY, VARIANTS, Backbone, register
from .published import OTHER_FILES, PublishedFiles

__all__ = ["OTHER_FILES", "REGISTRY", "VARIANTS", "Backbone", "PublishedFiles", "register"]


def __getattr__(name: str) -> type[Backbone]:
    """A registered class by its name: ``from models_mm.backbones import RecNeXt, recnext_m3``."""
    if name in REGISTRY:
        return REGISTRY[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
