"""models_mm: five families of research backbones in plain PyTorch, and in MMDetection 2.28.

Importing the package imports neither PyTorch nor a host framework. What it offers is loaded when it
is asked for; what needs MMDetection says so where that is not installed. As soon as mmcv and mmdet
are imported, before or after this package, they are made to run on the installed PyTorch, and its
backbones, heads and data sets are registered with them: configs ask for it by
``custom_imports = dict(imports=["models_mm"])``.
"""

import importlib

from models_mm import host_imports
from models_mm.version import __version__

API = {
    "create_backbone": "models_mm.catalogue",
    "list_backbones": "models_mm.catalogue",
    "list_configs": "models_mm.catalogue",
    "load_pretrained": "models_mm.checkpoints",
    "get_config": "models_mm.mmdet2.configs",
    "Detector": "models_mm.detector",
    "train": "models_mm.cli.own_data",
}
__all__ = ["__version__", *API]


def __getattr__(name: str):
    """What the package offers, imported when it is asked for.

    Raises:
        ImportError: it needs a package that is not installed.
    """
    if name not in API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with host_imports.needed_by(f"models_mm.{name}"):
        return getattr(importlib.import_module(API[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


host_imports.stand_by()
