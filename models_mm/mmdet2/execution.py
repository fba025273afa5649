"""How a detector is executed: number format, memory layout, compilation. The weights stay the same.

``amp``, ``channels_last`` and ``compile`` of the config (docs/train.md).
"""

import functools

import torch
from mmcv import Config
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from torch import nn

from models_mm.errors import UserError
from models_mm.layers.forms import allows_tf32

AMP = ("bfloat16", "float16", "off")


def settle_precision(cfg: Config) -> None:
    """Turn ``amp`` into what mmcv knows: of it all but bfloat16 is its ``fp16``.

    Raises:
        UserError: unknown ``amp``.
    """
    amp = cfg.get("amp")
    if amp is None:
        return
    if amp not in AMP:
        raise UserError(f"amp: {', '.join(AMP)}, not {amp!r}")
    cfg.fp16 = dict(loss_scale="dynamic") if amp == "float16" else None


def settle_kernels(deterministic: bool) -> str:
    """Choose kernels that repeat their results bit for bit, if that is wanted.

    An operator that has none is used all the same, and PyTorch warns of it.

    Returns:
        A line for the log: which kernels a GPU uses.
    """
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads such
    formats = ("float32", "TF32")
    return (
        f"GPU kernels: {'deterministic' if deterministic else 'any'}, cudnn_benchmark "
        f"{torch.backends.cudnn.benchmark}; products of float32 in {formats[allows_tf32()]}, "
        f"convolutions in {formats[allows_tf32(convolutions=True)]}"
    )


def prepare_execution(model: nn.Module, cfg: Config) -> nn.Module:
    """Apply the config's ``amp``, ``channels_last`` and ``compile`` to a detector in place."""
    if cfg.get("channels_last") or cfg.device == "cpu":
        # the faster layout on CPUs; backbones choose it for their maps, and weights that follow
        # spare a copy of every gradient
        for weight in model.parameters():
            if weight.dim() == 4:  # Module.to would also take those of five dimensions, and fail
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    if cfg.get("amp") == "bfloat16":
        for module in dense_modules(model):
            module.forward = in_bfloat16(module.forward, cfg.device)
    if cfg.get("compile"):
        # images of several sizes: one compilation for all of them
        model.backbone.compile(dynamic=True)
    return model


def dense_modules(model: nn.Module) -> list[nn.Module]:
    """The parts of a detector that are networks alone: backbone, neck, and heads without RoIs.

    What lies between them - boxes, RoIs, losses - needs float32: bfloat16 has no coordinate beyond
    256 to the pixel.
    """
    parts = []
    for child in model.children():
        if isinstance(child, BaseRoIHead):
            for name, head in child.named_children():
                if name.endswith("_head"):
                    parts += head if isinstance(head, nn.ModuleList) else [head]
        else:
            parts.append(child)
    return parts


def in_bfloat16(forward, device: str):
    """A forward in mixed precision whose results are float32."""

    @functools.wraps(forward)
    def mixed(*args, **kwargs):
        with torch.autocast(device, torch.bfloat16):
            return as_float32(forward(*args, **kwargs))

    return mixed


def as_float32(value):
    """Tensors of bfloat16 as float32, within tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, (tuple, list)):
        return type(value)(as_float32(item) for item in value)
    if isinstance(value, dict):
        return {key: as_float32(item) for key, item in value.items()}
    return value
