"""models_mm: research backbones for MMDetection 2.28 on today's PyTorch.

Importing the package registers its backbones and heads with mmdet and makes mmcv 1.7 and mmdet 2.28
run on the installed PyTorch; configs do it with ``custom_imports = dict(imports=['models_mm'])``.
"""

from models_mm.version import __version__  # isort: skip
from models_mm.mmdet2 import compat

compat.apply()

# These register with mmdet, and need compat for it.
from models_mm import backbones  # noqa: E402, F401
from models_mm.catalogue import create_backbone, get_config, list_configs  # noqa: E402
from models_mm.mmdet2 import datasets, heads, pipelines  # noqa: E402, F401

__all__ = ["Detector", "__version__", "create_backbone", "get_config", "list_configs"]


def __getattr__(name: str):
    """``Detector``, loaded when it is asked for: training and testing do without its imports."""
    if name == "Detector":
        from models_mm.mmdet2.inference import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
