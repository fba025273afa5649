"""Everything that exists only because mmcv 1.7 and mmdet 2.28 are older than PyTorch 2.

``import models_mm`` calls :func:`apply` once; nothing in site-packages is edited. One module per
subject; each says which versions need it and why, and can be applied any number of times. Nothing
outside this folder checks a version or knows that it exists.
"""

from models_mm.mmdet2.compat import operators, packages, yapf_grammar

__all__ = ["apply"]


def apply() -> None:
    """Make the installed mmcv and mmdet work with the installed PyTorch and NumPy.

    Raises:
        ImportError: mmcv or mmdet is missing, of another generation, or built for another torch.
    """
    packages.check()
    yapf_grammar.apply()  # before mmcv, which imports yapf
    operators.apply()
    # imported only now: they import mmdet, which imports mmcv.ops and its compiled module
    from models_mm.mmdet2.compat import (
        config,
        ddp,
        launch,
        loading,
        numpy_names,
        recalls,
        seeds,
        streams,
    )

    for subject in (numpy_names, config, streams, ddp, launch, loading, recalls, seeds):
        subject.apply()
