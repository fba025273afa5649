"""Registration of this package's parts with mmdet, and of mmdet's with the catalogue."""

import importlib
from functools import partial

from models_mm import catalogue
from models_mm.checkpoints import identify
from models_mm.logs import show
from models_mm.mmdet2 import compat

OWN_VARIANTS = ("resnet50", "mobilenetv2")  # of published rows; mmdet has the classes


def register() -> None:
    """Make mmdet run here, and register backbones, heads, data sets and pipelines with it.

    Calling it again changes nothing.
    """
    compat.apply_to_mmdet()
    # imported only now: they import mmdet's modules, which import mmcv.ops
    from models_mm.mmdet2 import backbones, datasets, heads, pipelines  # noqa: F401

    backbones.register()
    catalogue.host_backbones = backbones.BACKBONES.module_dict
    catalogue.load_into_detector = partial(call, "load_into_detector")
    for variant in OWN_VARIANTS:
        identify.host_variants[variant] = partial(call, "backbone_of_a_row", variant)
    show()


def call(function: str, *arguments):
    """Call a function of :mod:`models_mm.mmdet2.detectors`.

    That module reads configs, which may be what imports mmdet, and so this one, just now.
    """
    return getattr(importlib.import_module("models_mm.mmdet2.detectors"), function)(*arguments)
