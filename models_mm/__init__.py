"""models_mm: research backbones for MMDetection 2.28 on today's PyTorch.

Importing the package registers its backbones with mmdet and makes mmcv 1.7 and mmdet 2.28 run on
the installed PyTorch; configs do it with ``custom_imports = dict(imports=['models_mm'])``.
"""

from models_mm.version import __version__  # isort: skip
from models_mm import compat

compat.apply()

from models_mm import backbones, datasets  # noqa: E402, F401  (register; need compat)

__all__ = ["Detector", "__version__"]


def __getattr__(name: str):
    """``Detector``, loaded when it is asked for: training and testing do without its imports."""
    if name == "Detector":
        from models_mm.inference import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
