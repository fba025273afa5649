"""Batch norms folded into the convolutions before them, for inference."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the one base class that SyncBatchNorm shares
from torch.nn.utils import fuse_conv_bn_eval

from .warehouse import WarehouseLayer


def fold_norm(conv: nn.Module, norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The convolution that computes ``norm(conv(x))`` in eval mode, and an identity for the norm.

    Raises:
        RuntimeError: ``norm`` depends on its input, so it cannot be part of a convolution.
    """
    if isinstance(norm, nn.Identity):
        return conv, norm
    if not isinstance(norm, _BatchNorm):
        raise RuntimeError(f"only batch norms fold into convolutions, not {type(norm).__name__}")
    if isinstance(conv, WarehouseLayer):
        conv.fold(norm)
        return conv, nn.Identity()
    return fuse_conv_bn_eval(conv, norm), nn.Identity()


def fold_norms(module: nn.Module, *pairs: tuple[str, str]) -> None:
    """Apply :func:`fold_norm` to children of a module, named in pairs (convolution, norm)."""
    for conv, norm in pairs:
        folded = fold_norm(module.get_submodule(conv), module.get_submodule(norm))
        for name, child in zip((conv, norm), folded, strict=True):
            setattr(module, name, child)
