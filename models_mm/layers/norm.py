"""Build norms from configs in the form of mmcv: ``dict(type="SyncBN", requires_grad=True)``."""

from collections import ChainMap

from torch import nn

# A host framework may add a dictionary of its own norms (``NORMS.maps.append``).
NORMS: ChainMap[str, type[nn.Module]] = ChainMap(
    {
        **dict(BN=nn.BatchNorm2d, BN1d=nn.BatchNorm1d, BN2d=nn.BatchNorm2d, BN3d=nn.BatchNorm3d),
        **dict(SyncBN=nn.SyncBatchNorm, GN=nn.GroupNorm, LN=nn.LayerNorm, IN=nn.InstanceNorm2d),
    }
)
BATCH_NORM = {"type": "BN", "requires_grad": True}


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build the norm of a config for maps with this many channels.

    Args:
        norm_cfg: ``type``, one of ``NORMS``; ``requires_grad`` (default: True); other
            arguments of the norm, such as ``eps`` (default: 1e-5) or ``num_groups`` of ``GN``.
        channels: C of the map (N, C, H, W).

    Raises:
        ValueError: ``type`` is unknown.
    """
    settings = {"eps": 1e-5, **norm_cfg}
    kind, requires_grad = settings.pop("type"), settings.pop("requires_grad", True)
    if kind not in NORMS:
        raise ValueError(f"norm_cfg: type must be one of {', '.join(NORMS)}, got {kind!r}")
    if kind == "GN":
        settings["num_channels"] = channels
        norm = NORMS[kind](**settings)
    else:
        norm = NORMS[kind](channels, **settings)
    return norm.requires_grad_(requires_grad)
