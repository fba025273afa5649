"""The backbones of this package as MMDetection's, and MMDetection's own that published rows use.

Paper of MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
arXiv 1801.04381. mmdet's network and KernelWarehouse's plain baseline are one; the baseline counts
its outputs as torchvision's layers do, and its published files have torchvision's names.
"""

import re

from mmcv.cnn import NORM_LAYERS, initialize
from mmdet.models.backbones import MobileNetV2 as MMDetMobileNetV2
from mmdet.models.backbones import ResNet
from mmdet.models.builder import BACKBONES

from models_mm.backbones import REGISTRY, Backbone, PublishedFiles
from models_mm.backbones.base import LISTENERS
from models_mm.backbones.reference import check_published, ignoring_resnet
from models_mm.layers.norm import NORMS

# The layer of mmdet's network after which the baseline takes each output: 16, 24, 32, 96 and 1280
# channels at strides 2 to 32.
OUTPUTS = (0, 1, 2, 4, 7)
# Inverted residuals in mmdet's MobileNetV2, for features 1 to 17 of torchvision's.
BLOCKS = [f"layer{i}.{j}" for i, n in enumerate((1, 2, 3, 4, 3, 3, 1), start=1) for j in range(n)]
CLASSIFIER = (r"(fc|classifier|head)\..*",)


def torchvision_names(entries: dict) -> dict:
    """Names of torchvision's MobileNetV2 to those of mmdet's; a file in mmdet's stays as it is."""
    return {_renamed(key): value for key, value in entries.items()}


def _renamed(key: str) -> str:
    match = re.fullmatch(r"features\.(\d+)\.(conv\.)?(.*)", key)
    if not match or int(match[1]) >= len(BLOCKS) + 2:
        return key
    feature, rest = int(match[1]), match[3]
    if feature in (0, len(BLOCKS) + 1):
        return f"conv{2 if feature else 1}.{_conv_or_norm(rest)}"
    # A block's layers are (expansion,) depthwise, each a pair, and the projection, which is none.
    layers = ("depthwise_conv", "linear_conv")
    if feature > 1:
        layers = ("expand_conv", *layers)
    position, _, inner = rest.partition(".")
    if int(position) >= len(layers) - 1:
        position, inner = len(layers) - 1, f"{int(position) - len(layers) + 1}.{inner}"
    return f"{BLOCKS[feature - 1]}.{layers[int(position)]}.{_conv_or_norm(inner)}"


def _conv_or_norm(rest: str) -> str:
    return ("conv." if rest[0] == "0" else "bn.") + rest[2:]


@BACKBONES.register_module(force=True)
class MobileNetV2(MMDetMobileNetV2):
    """mmdet's MobileNetV2; with ``width_mult``, in the words of KernelWarehouse's baseline.

    Frozen stages are frozen from construction on, which an optimizer and DDP need.

    Args:
        args: mmdet's.
        width_mult: of the baseline; 1 is known. ``out_indices`` (of 0 to 4, default 0 to 3) and
            ``frozen_stages`` (up to 3) then count its five outputs, 16, 24, 32, 96 and 1280
            channels wide, and what its config inherits from a ResNet is ignored, with a warning.
        settings: mmdet's.

    Raises:
        ValueError: another ``width_mult``, or an output that does not exist.
    """

    published = PublishedFiles(
        name="mobilenetv2", dropped=CLASSIFIER, rename=torchvision_names, in_detectors=True
    )

    def __init__(self, *args, width_mult: float | None = None, **settings):
        if width_mult is None:
            MMDetMobileNetV2.__init__(self, *args, **settings)
        else:
            check_published("MobileNetV2", {"width_mult": width_mult}, {"width_mult": 1.0}, ())
            self._build_baseline(*args, **settings)
        self.train(self.training)

    @ignoring_resnet("frozen_stages", "norm_eval")
    def _build_baseline(self, out_indices=(0, 1, 2, 3), frozen_stages=-1, **settings):
        if not set(out_indices) <= set(range(len(OUTPUTS))):
            raise ValueError(f"out_indices must be among 0 to 4 (width_mult), got {out_indices}")
        if frozen_stages not in range(-1, len(OUTPUTS) - 1):
            raise ValueError(f"frozen_stages must be -1 to 3 (width_mult), got {frozen_stages}")
        frozen = OUTPUTS[frozen_stages] + 1 if frozen_stages >= 0 else -1
        outputs = tuple(OUTPUTS[i] for i in out_indices)
        super().__init__(out_indices=outputs, frozen_stages=frozen, **settings)


def register_with_mmdet(name: str, cls: type) -> None:
    """Let mmdet's configs name a backbone."""
    BACKBONES.register_module(name, force=True, module=cls)


def register() -> None:
    """Register all backbones with mmdet, those that are registered later too, and let them use
    mmcv's norms and ``init_cfg``.

    Calling it again changes nothing.
    """
    for name, cls in REGISTRY.items():
        register_with_mmdet(name, cls)
    if register_with_mmdet not in LISTENERS:
        LISTENERS.append(register_with_mmdet)
    if NORM_LAYERS.module_dict not in NORMS.maps:
        NORMS.maps.append(NORM_LAYERS.module_dict)
    Backbone.initialize = staticmethod(initialize)
    ResNet.published = PublishedFiles(name="resnet", dropped=CLASSIFIER, in_detectors=True)
