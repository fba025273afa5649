"""Everything that exists only because mmcv 1.7 and mmdet 2.28 are older than PyTorch 2.

``models_mm.host_imports`` calls this when they are imported; nothing in site-packages is edited.
One module per subject; each says which versions need it and why, and can be applied any number of
times. Nothing outside this folder checks a version or knows that it exists.
"""

from models_mm.mmdet2.compat import packages

__all__ = ["apply_to_mmcv", "apply_to_mmdet"]


def apply_to_mmcv() -> None:
    """Make mmcv 1.7 work with the installed PyTorch and NumPy; another mmcv is left alone.

    Raises:
        ImportError: its compiled operators were built for another PyTorch.
    """
    if not packages.is_host_mmcv():
        return
    from models_mm.mmdet2.compat import (
        config,
        launch,
        loading,
        numpy_names,
        operators,
        streams,
    )

    for subject in (operators, numpy_names, config, streams, launch, loading):
        subject.apply()


def apply_to_mmdet() -> None:
    """Make mmdet 2.28 work with the installed PyTorch and NumPy.

    Raises:
        ImportError: mmcv or mmdet is missing, or of another generation.
    """
    packages.check()
    apply_to_mmcv()
    from models_mm.mmdet2.compat import ddp, loading, recalls, seeds

    for subject in (loading, ddp, recalls, seeds):
        subject.apply()
