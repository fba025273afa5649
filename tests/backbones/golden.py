"""The table of variants under test, and the deterministic weights behind the golden values."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models import build_backbone
from torch import Tensor, nn

from models_mm import list_backbones

GOLDEN = Path(__file__).parents[1] / "golden"

# Settings under which something can be seen of every part.
SETTINGS = {
    # norms in training mode, unlike the default, for the tests of statistics
    "biformer": {"norm_eval": False},
    # layer scales of 1e-6, their default, would leave nothing of the branches
    "convnext": {"layer_scale_init_value": 1.0},
    "kw1x_convnext": {"layer_scale_init_value": 1.0},
}
# Sizes are one letter in the names of golden files.
SHORT = {"_tiny": "_t", "_xsmall": "_xs", "_small": "_s", "_base": "_b"}


def golden_name(variant: str) -> str:
    """What the golden file of a variant is called."""
    for long, short in SHORT.items():
        variant = variant.replace(long, short)
    return variant


# Golden name -> config, of every variant in the registry: each is tested for its values and for the
# contract.
VARIANTS = {
    golden_name(name): {"type": name, **SETTINGS.get(name.rpartition("_")[0], {})}
    for name in list_backbones()
}

# Too large for a tier that people wait for. The code of each runs there in smaller variants.
LARGE = {"biformer_b", "recnext_m4", "recnext_m5", "recnext_a4", "recnext_a5", "dfvt_s", "dfvt_b"}
LARGE |= {"mpvit_xs", "mpvit_s", "mpvit_b", "kw1x_convnext_t", "kw4x_resnet50", "kw4x_mobilenetv2"}


def cases(names) -> list:
    """Variants as pytest's parameters; large ones run in the slow tier."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in names]


# Golden values of a network that mmdet's own class computes: tests/checkpoints/ has them.
OF_MMDET = {"mobilenetv2"}


def build(name: str, **settings) -> nn.Module:
    """The variant with the given constructor settings, in float64 and training mode."""
    return build_backbone({**VARIANTS[name], **settings}).double()


def images(*shape: int) -> Tensor:
    """The input of the golden values, (N, 3, H, W) in float64."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape))


@torch.no_grad()
def fill_weights(model: nn.Module) -> nn.Module:
    """Give every floating-point entry of the state dict the value that its key implies."""
    for key, entry in model.state_dict().items():
        if entry.is_floating_point():
            entry.copy_(torch.from_numpy(_value(key, tuple(entry.shape))))
    return model


def _value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    value = np.asarray(np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape))
    if key.endswith("running_var"):
        return 1 + 0.2 * np.abs(value)
    if key.endswith("running_mean"):
        return 0.1 * value
    if key.startswith("warehouse_manager.weights."):  # mixed kernels get unit gain
        return value * np.sqrt(shape[0] / np.prod(shape[2:]))
    if len(shape) <= 1:
        return 1 + 0.1 * value if key.endswith("weight") else 0.1 * value
    return value / np.sqrt(value.size / shape[0])
