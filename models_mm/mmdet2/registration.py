"""Registration of this package's parts with mmdet."""

from models_mm import catalogue
from models_mm.checkpoints import identify
from models_mm.logs import show
from models_mm.mmdet2 import compat


def register() -> None:
    """Make mmdet run here, and register backbones, heads, data sets and pipelines with it.

    Calling it again changes nothing.
    """
    compat.apply_to_mmdet()
    # imported only now: they import mmdet's modules, which import mmcv.ops
    from models_mm.mmdet2 import backbones, datasets, detectors, heads, pipelines  # noqa: F401

    backbones.register()
    catalogue.host_backbones = backbones.BACKBONES.module_dict
    catalogue.load_into_detector = detectors.load_into_detector
    identify.host_variants.update(detectors.own_variants())
    show()
